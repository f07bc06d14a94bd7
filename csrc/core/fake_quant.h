// SPDX-License-Identifier: Apache-2.0
// Fake quantisation of real numbers: quantise(x) = overflow(round(x * 2^frac)) of docs/numerics.md section 2, with the
// rounding and overflow functions of the datapath.
#ifndef YHW_CORE_FAKE_QUANT_H_
#define YHW_CORE_FAKE_QUANT_H_

#include <cmath>
#include <type_traits>

#include "rounding.h"

namespace yhw {

// Codes of a fixed-point format.
struct CodeRange {
  int lo;
  int hi;
  int bits;
};

// Scaled values are brought below this before they become integers: far outside of every format, and small enough that
// the steps below are exact in float32 and fit an int.
constexpr int kScaledLimit = 1 << 20;
static_assert(kScaledLimit < (1 << 24), "integers up to the limit must be exact in float32");
static_assert(kScaledLimit > (1 << 16), "the limit must lie outside of every format of at most 16 bits");

// 2^frac; where it does not fit Real it is 0 or infinity, and so are the results, or NaN.
template <typename Real>
YHW_HD Real power_of_two(int frac) {
  return std::ldexp(Real(1), frac);
}

// x reduced to |x| <= kScaledLimit without a change of its code. NaN stays NaN; infinity becomes NaN under kWrap, as it
// has no low bits.
template <Overflow kOverflow, typename Real>
YHW_HD Real limit_scaled(Real x, int bits) {
  const Real limit = static_cast<Real>(kScaledLimit);
  if (kOverflow == Overflow::kWrap) {
    // fmod is exact and keeps the sign and the fraction, so ties round as before.
    return x > -limit && x < limit ? x : std::fmod(x, static_cast<Real>(1 << bits));
  }
  return x < -limit ? -limit : (x > limit ? limit : x);
}

// x rounded to an integer by the rule of round_shift; needs |x| <= kScaledLimit.
template <Rounding kRounding, typename Real>
YHW_HD int round_real(Real x) {
  const int truncated = static_cast<int>(x);
  const Real part = x - static_cast<Real>(truncated);  // in (-1, 1), the sign of x; exact, as x - floor(x) is not
  const bool negative = part < Real(0);
  const int base = truncated - (negative ? 1 : 0);
  const Real half = negative ? Real(-0.5) : Real(0.5);
  // x with two fraction bits: whether the rest above base is zero, below, on or above the tie.
  const int quarters = (part != Real(0) ? 1 : 0) + (part >= half ? 1 : 0) + (part > half ? 1 : 0);
  return round_shift<kRounding>(base * 4 + quarters, 2);
}

// x on the grid of the format; `scale` is 2^frac and `step` 2^-frac. NaN gives NaN, zero gives +0.
template <Rounding kRounding, Overflow kOverflow, typename Real>
YHW_HD Real fake_quant(Real x, Real scale, Real step, const CodeRange& range) {
  const Real scaled = limit_scaled<kOverflow>(x * scale, range.bits);
  const bool is_nan = scaled != scaled;
  const int rounded = round_real<kRounding>(is_nan ? Real(0) : scaled);
  const int code = overflow<kOverflow>(rounded, range.lo, range.hi, range.bits);
  return is_nan ? scaled : static_cast<Real>(code) * step;
}

// Straight-through gradient of fake_quant: `grad` where the overflow left the rounded value unchanged, else 0. Under
// kWrap the gradient passes everywhere; under the others not for NaN.
template <Rounding kRounding, Overflow kOverflow, typename Real>
YHW_HD Real fake_quant_grad(Real grad, Real x, Real scale, const CodeRange& range) {
  if (kOverflow == Overflow::kWrap) {
    return grad;
  }
  const Real scaled = limit_scaled<kOverflow>(x * scale, range.bits);
  const bool is_nan = scaled != scaled;
  const int rounded = round_real<kRounding>(is_nan ? Real(0) : scaled);
  const bool inside = !is_nan && overflow<kOverflow>(rounded, range.lo, range.hi, range.bits) == rounded;
  return inside ? grad : Real(0);
}

// A mode as a type, so that a loop is compiled once per mode.
template <Rounding kMode>
using RoundingTag = std::integral_constant<Rounding, kMode>;
template <Overflow kMode>
using OverflowTag = std::integral_constant<Overflow, kMode>;

// Calls body(rounding tag, overflow tag) with the modes as types.
template <typename Body>
void with_modes(Rounding rounding, Overflow overflow, const Body& body) {
  const auto with_rounding = [&](auto overflow_tag) {
    switch (rounding) {
      case Rounding::kHalfUp:
        return body(RoundingTag<Rounding::kHalfUp>{}, overflow_tag);
      case Rounding::kHalfEven:
        return body(RoundingTag<Rounding::kHalfEven>{}, overflow_tag);
      case Rounding::kHalfAway:
        return body(RoundingTag<Rounding::kHalfAway>{}, overflow_tag);
      case Rounding::kFloor:
        return body(RoundingTag<Rounding::kFloor>{}, overflow_tag);
    }
  };
  switch (overflow) {
    case Overflow::kSaturate:
      return with_rounding(OverflowTag<Overflow::kSaturate>{});
    case Overflow::kSaturateSymmetric:
      return with_rounding(OverflowTag<Overflow::kSaturateSymmetric>{});
    case Overflow::kWrap:
      return with_rounding(OverflowTag<Overflow::kWrap>{});
  }
}

}  // namespace yhw

#endif  // YHW_CORE_FAKE_QUANT_H_
