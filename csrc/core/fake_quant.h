// SPDX-License-Identifier: Apache-2.0
// Fake quantisation of real numbers: quantise(x) = overflow(round(x * 2^frac)) of docs/numerics.md section 2, with the
// rounding and overflow functions of the datapath.
#ifndef YHW_CORE_FAKE_QUANT_H_
#define YHW_CORE_FAKE_QUANT_H_

#include <cmath>
#include <type_traits>

#include "with_modes.h"

namespace yhw {

// Codes of a fixed-point format.
struct CodeRange {
  int lo;
  int hi;
  int bits;
};

// Values up to this round exactly in float32 by the sums below; every format of at most 16 bits lies inside, and a
// larger value stays outside of all of them.
constexpr int kScaledLimit = 1 << 20;
static_assert(kScaledLimit < (1 << 22),
              "1.5 * 2^23 + x must have the unit of its last place at 1 for |x| up to the limit");
static_assert(kScaledLimit > (1 << 16), "the limit must lie outside of every format of at most 16 bits");
#if defined(__FLT_EVAL_METHOD__) && !defined(__CUDACC__)
static_assert(__FLT_EVAL_METHOD__ == 0, "the sums below must round to their own type");
#endif

// The power of two from which on neighbours of Real lie 1 apart.
template <typename Real>
struct UnitSpacing;
template <>
struct UnitSpacing<float> {
  static constexpr float value = 8388608.0f;  // 2^23
};
template <>
struct UnitSpacing<double> {
  static constexpr double value = 4503599627370496.0;  // 2^52
};

// 2^frac; where it does not fit Real it is 0 or infinity, and so are the results, or NaN.
template <typename Real>
YHW_HD Real power_of_two(int frac) {
  return std::ldexp(Real(1), frac);
}

#if defined(__GNUC__) && !defined(__CUDACC__)
// The exponent's bits, without the library call: per-channel formats ask once per channel.
template <>
inline __attribute__((always_inline)) float power_of_two<float>(int frac) {
  if (frac < -126 || frac > 127) {
    return std::ldexp(1.0f, frac);
  }
  const int bits = (frac + 127) * (1 << 23);
  float value = 0;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}
template <>
inline __attribute__((always_inline)) double power_of_two<double>(int frac) {
  if (frac < -1022 || frac > 1023) {
    return std::ldexp(1.0, frac);
  }
  const long long bits = (frac + 1023) * (1ll << 52);
  double value = 0;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}
#endif

// a * b rounded on its own. g++ is told so by -ffp-contract=off; nvcc would fuse the product with a sum that follows,
// which differs where the product underflows.
YHW_HD float product(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
YHW_HD double product(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

// Smallest code that the overflow mode lets through.
template <Overflow kOverflow>
YHW_HD int lowest_code(const CodeRange& range) {
  return kOverflow == Overflow::kSaturateSymmetric && range.lo < 0 ? -range.hi : range.lo;
}

// x rounded to an integer by the rule of round_shift, zero as +0; exact for |x| <= kScaledLimit. Larger values stay
// larger than half of it, NaN stays NaN. Additions and selections only, so that a loop of it becomes vector code for
// every instruction set, and all give the same bits; needs the rounding mode to nearest even.
template <Rounding kRounding, typename Real>
YHW_HD Real round_real(Real x) {
  const Real shift = Real(1.5) * UnitSpacing<Real>::value;
  const Real even = (x + shift) - shift;  // x + shift has no fraction bits left: nearest integer, ties to even
  const Real rest = x - even;             // in [-0.5, 0.5], exact
  if (kRounding == Rounding::kHalfUp) {
    return even + (rest == Real(0.5) ? Real(1) : Real(0));
  }
  if (kRounding == Rounding::kHalfAway) {
    // A tie that went toward zero has a rest of its own sign.
    const Real half = std::copysign(Real(0.5), x);
    return even + (rest == half ? half + half : Real(0));
  }
  if (kRounding == Rounding::kFloor) {
    return even - (rest < Real(0) ? Real(1) : Real(0));
  }
  return even;
}

// The remainder of x / 2^bits with the sign of x, as std::fmod and as exact, without a branch. Infinity gives NaN.
template <typename Real>
YHW_HD Real low_bits(Real x, int bits) {
  const Real modulus = static_cast<Real>(1 << bits), unit = UnitSpacing<Real>::value;
  const Real quotient = std::fabs(x) * (Real(1) / modulus);
  const Real nearest = (quotient + unit) - unit;
  const Real below = nearest - (nearest > quotient ? Real(1) : Real(0));
  const Real whole = quotient < unit ? below : quotient;  // a quotient from 2^23 (2^52) on has no fraction
  return x - std::copysign(whole, x) * modulus;
}

// The code of a scaled value in [low, high]. Rounding is monotone and keeps integers, so it commutes with the clamp;
// the comparisons keep NaN.
template <Rounding kRounding, typename Real>
YHW_HD Real saturated_code(Real scaled, Real low, Real high) {
  const Real raised = scaled < low ? low : scaled;
  return round_real<kRounding>(raised > high ? high : raised);
}

// The code of a scaled value, round and overflow, as a real number. NaN gives NaN; infinity does under kWrap, as it has
// no low bits.
template <Rounding kRounding, Overflow kOverflow, typename Real>
YHW_HD Real real_code(Real scaled, const CodeRange& range) {
  const Real low = static_cast<Real>(lowest_code<kOverflow>(range)), high = static_cast<Real>(range.hi);
  if (kOverflow == Overflow::kWrap) {
    // The sign and the fraction are kept, so ties round as before; then one period more or less is left.
    const Real modulus = static_cast<Real>(1 << range.bits);
    const Real code = round_real<kRounding>(low_bits(scaled, range.bits));
    return code + (code < low ? modulus : (code > high ? -modulus : Real(0)));
  }
  return saturated_code<kRounding>(scaled, low, high);
}

// x on the grid of the format; `scale` is 2^frac and `step` 2^-frac. NaN gives NaN, zero gives +0.
template <Rounding kRounding, Overflow kOverflow, typename Real>
YHW_HD Real fake_quant(Real x, Real scale, Real step, const CodeRange& range) {
  return real_code<kRounding, kOverflow>(product(x, scale), range) * step;
}

// The scaled values whose gradient passes: [first, last].
template <typename Real>
struct PassRange {
  Real first;
  Real last;
};

// The scaled values that round to a code of the format. Hoist it out of a loop.
template <Rounding kRounding, Overflow kOverflow, typename Real>
YHW_HD PassRange<Real> pass_range(const CodeRange& range) {
  const int lowest = lowest_code<kOverflow>(range);
  const Real low = static_cast<Real>(lowest), high = static_cast<Real>(range.hi);
  if (kRounding == Rounding::kFloor) {
    return {low, std::nextafter(high + Real(1), Real(0))};
  }
  // The largest code is odd (2^n - 1): every rule but kFloor takes the tie above it out of the format.
  const Real last = std::nextafter(high + Real(0.5), Real(0)), tie = low - Real(0.5);
  const bool tie_passes = kRounding == Rounding::kHalfUp || (kRounding == Rounding::kHalfEven && lowest % 2 == 0);
  return {tie_passes ? tie : std::nextafter(tie, Real(1)), last};
}

// Whether the gradient of a scaled value passes; not for NaN. One comparison: with two, g++ 12 leaves loops that use
// the answer twice scalar for AVX2.
template <typename Real>
YHW_HD bool passes(Real scaled, const PassRange<Real>& pass) {
  const Real raised = scaled < pass.first ? pass.first : scaled;
  return (raised > pass.last ? pass.last : raised) == scaled;
}

// Straight-through gradient of fake_quant: `grad` where the scaled value passes, else 0. Under kWrap the gradient
// passes everywhere; under the others not for NaN.
template <Overflow kOverflow, typename Real>
YHW_HD Real fake_quant_grad(Real grad, Real x, Real scale, const PassRange<Real>& pass) {
  return kOverflow == Overflow::kWrap || passes(product(x, scale), pass) ? grad : Real(0);
}

template <Rounding kRounding, Overflow kOverflow, typename Real>
YHW_HD Real fake_quant_grad(Real grad, Real x, Real scale, const CodeRange& range) {
  return fake_quant_grad<kOverflow>(grad, x, scale, pass_range<kRounding, kOverflow, Real>(range));
}

}  // namespace yhw

#endif  // YHW_CORE_FAKE_QUANT_H_
