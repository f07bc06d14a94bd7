// SPDX-License-Identifier: Apache-2.0
// Fake quantisation whose power-of-two step follows a trained real number: the step from the number, the gradient to
// it.
//   TQT, trained thresholds: Jain et al., "Trained Quantization Thresholds for Accurate and Efficient Fixed-Point
//        Inference of Deep Neural Networks", MLSys 2020, equations 4 to 8.
//   LSQ, learned step size: Esser et al., "Learned Step Size Quantization", ICLR 2020, equations 3 to 5.
#ifndef YHW_CORE_LEARNED_STEP_H_
#define YHW_CORE_LEARNED_STEP_H_

#include "fake_quant.h"

namespace yhw {

// What the trained number is.
enum class StepGradient {
  kTqt = 0,  // log2 of the threshold t: step = 2^ceil(log2 t) / 2^(bits - sign)
  kLsq = 1,  // the step itself, brought to the nearest power of two in log2
};

// Returned where no step follows; far outside of the fraction bits of every format.
constexpr int kNoFrac = 1000;

// Fraction bits of a format with `magnitude_bits` bits besides the sign that reaches the threshold.
YHW_HD int frac_of_log2_threshold(double log2_t, int magnitude_bits) {
  const double frac = magnitude_bits - std::ceil(log2_t);
  return frac > -kNoFrac && frac < kNoFrac ? static_cast<int>(frac) : kNoFrac;
}

// -round(log2(scale)) without a logarithm: the same on every device.
YHW_HD int frac_of_scale(double scale) {
  constexpr double kSqrtHalf = 0.70710678118654752440;
  if (!(scale > 0 && scale <= 1e300)) {
    return kNoFrac;
  }
  int exponent = 0;
  const double mantissa = std::frexp(scale, &exponent);  // in [0.5, 1)
  return (mantissa < kSqrtHalf ? 1 : 0) - exponent;
}

YHW_HD int learned_frac(StepGradient gradient, double parameter, int magnitude_bits) {
  return gradient == StepGradient::kTqt ? frac_of_log2_threshold(parameter, magnitude_bits) : frac_of_scale(parameter);
}

// The scaled values whose gradient passes to x. TQT decides after rounding, as the plain operator; LSQ before it, and
// open at both ends.
template <Rounding kRounding, Overflow kOverflow, typename Real>
YHW_HD PassRange<Real> learned_pass_range(StepGradient gradient, const CodeRange& range) {
  if (gradient == StepGradient::kTqt) {
    return pass_range<kRounding, kOverflow, Real>(range);
  }
  const Real low = static_cast<Real>(lowest_code<kOverflow>(range)), high = static_cast<Real>(range.hi);
  return {std::nextafter(low, high), std::nextafter(high, low)};
}

// What every element of a channel is treated with.
template <typename Real>
struct LearnedFormat {
  Real scale;  // 2^frac
  PassRange<Real> pass;
  Real low;  // the end codes
  Real high;
};

// The format of a channel but for its scale.
template <Rounding kRounding, Overflow kOverflow, typename Real>
YHW_HD LearnedFormat<Real> learned_format(StepGradient gradient, const CodeRange& range) {
  return {Real(1), learned_pass_range<kRounding, kOverflow, Real>(gradient, range),
          static_cast<Real>(lowest_code<kOverflow>(range)), static_cast<Real>(range.hi)};
}

// The gradients of one element: to x, and its part of the gradient to the step.
template <typename Real>
struct LearnedGradient {
  Real x;
  Real step;
};

// The part is grad times d fake_quant / d step in units of the step: the rounding error inside of the format, the end
// code outside, NaN for NaN. What does not pass has an end code, so one subtraction serves both.
template <Rounding kRounding, typename Real>
YHW_HD LearnedGradient<Real> learned_gradient(Real grad, Real x, const LearnedFormat<Real>& format) {
  const Real scaled = product(x, format.scale);
  const bool inside = passes(scaled, format.pass);
  const Real slope = saturated_code<kRounding>(scaled, format.low, format.high) - (inside ? scaled : Real(0));
  return {inside ? grad : Real(0), product(grad, slope)};
}

// Factor from the sum of LearnedGradient::step to the gradient of the trained number. TQT: d step / d log2 t = step *
// ln 2. LSQ: d step / d scale = 1, straight through the power of two, times the caller's gradient scale.
YHW_HD double step_gradient_factor(StepGradient gradient, int frac, double grad_scale) {
  constexpr double kLn2 = 0.69314718055994530942;
  return gradient == StepGradient::kTqt ? power_of_two<double>(-frac) * kLn2 : grad_scale;
}

// The order of the sum over the elements of a channel, the same on every device and for every number of threads:
// element j, counted in memory order, belongs to chunk j / kSumChunk and there to lane j % kSumLanes; a lane adds in
// order in Real, lanes are added in halves in double, and kSumGroup neighbours at a time become one until one is left.
constexpr int kSumLanes = 32;
constexpr int kSumChunk = 2048;
constexpr int kSumGroup = 32;
static_assert(kSumChunk % kSumLanes == 0, "a chunk is whole rows of lanes");

// sums[0, kCount) into sums[0]. A recursion of types, so that no loop is left: one chunk has few elements.
template <int kCount>
struct AddHalves {
  YHW_HD void run(double* sums) {
    for (int i = 0; i < kCount / 2; ++i) {
      sums[i] += sums[i + kCount / 2];
    }
    AddHalves<kCount / 2>::run(sums);
  }
};
template <>
struct AddHalves<1> {
  YHW_HD void run(double*) {}
};

template <typename Real>
YHW_HD double add_lanes(const Real* lanes) {
  double sums[kSumLanes];
  for (int i = 0; i < kSumLanes; ++i) {
    sums[i] = static_cast<double>(lanes[i]);
  }
  AddHalves<kSumLanes>::run(sums);
  return sums[0];
}

}  // namespace yhw

#endif  // YHW_CORE_LEARNED_STEP_H_
