// SPDX-License-Identifier: Apache-2.0
// The functions of rounding.h and requant.h with the modes as values, for code that is not worth compiling once per
// mode.
#ifndef YHW_CORE_REQUANT_MODES_H_
#define YHW_CORE_REQUANT_MODES_H_

#include "requant.h"

namespace yhw {

template <typename Wide>
YHW_HD Wide round_shift(Rounding mode, Wide v, int s) {
  switch (mode) {
    case Rounding::kHalfEven:
      return round_shift<Rounding::kHalfEven>(v, s);
    case Rounding::kHalfAway:
      return round_shift<Rounding::kHalfAway>(v, s);
    case Rounding::kFloor:
      return round_shift<Rounding::kFloor>(v, s);
    case Rounding::kHalfUp:
      break;
  }
  return round_shift<Rounding::kHalfUp>(v, s);
}

template <typename Wide>
YHW_HD Wide overflow(Overflow mode, Wide v, Wide lo, Wide hi, int bits) {
  switch (mode) {
    case Overflow::kSaturateSymmetric:
      return overflow<Overflow::kSaturateSymmetric>(v, lo, hi, bits);
    case Overflow::kWrap:
      return overflow<Overflow::kWrap>(v, lo, hi, bits);
    case Overflow::kSaturate:
      break;
  }
  return overflow<Overflow::kSaturate>(v, lo, hi, bits);
}

// The code before the table of an accumulator.
template <typename Wide, typename Factor>
YHW_HD Wide requant_code(Rounding rounding, Overflow mode, Wide acc, int shift, const RequantParams<Wide, Factor>& p) {
  const bool negative = acc < Wide(0);
  const Wide product = Wide(acc * Wide(requant_factor(negative, p)));
  const Wide rounded = round_shift(rounding, product, shift + (negative ? p.shift_neg : 0));
  return overflow(mode, rounded, p.code_lo, p.code_hi, p.code_bits);
}

}  // namespace yhw

#endif  // YHW_CORE_REQUANT_MODES_H_
