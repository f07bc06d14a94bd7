// SPDX-License-Identifier: Apache-2.0
// From an accumulator to an output code: the one formula every computing node ends with (docs/numerics.md section 3).
// The numpy twin is yolo_hw/intgraph/requant.py.
#ifndef YHW_CORE_REQUANT_H_
#define YHW_CORE_REQUANT_H_

#include "rounding.h"

namespace yhw {

// What all output channels of a node share; the shift is per channel. A `Factor` may be narrower than the product.
template <typename Wide, typename Factor = Wide>
struct RequantParams {
  Factor mul_pos;  // factor of accumulators >= 0
  Factor mul_neg;  // factor of accumulators < 0
  int shift_neg;   // added to the shift of accumulators < 0
  Wide code_lo;    // format of the code before table or clamp
  Wide code_hi;
  int code_bits;
  Wide clamp_lo;  // smallest and largest output code, where there is no table
  Wide clamp_hi;
};

// The factor of an accumulator.
template <typename Wide, typename Factor>
YHW_HD Factor requant_factor(bool negative, const RequantParams<Wide, Factor>& p) {
  return negative ? p.mul_neg : p.mul_pos;
}

// The code before the table of `product`, an accumulator times its factor: overflow(round_shift(product, shift)).
template <Rounding kRounding, Overflow kOverflow, typename Wide, typename Factor>
YHW_HD Wide product_code(Wide product, bool negative, int shift, const RequantParams<Wide, Factor>& p) {
  const Wide rounded = round_shift<kRounding>(product, shift + (negative ? p.shift_neg : 0));
  return overflow<kOverflow>(rounded, p.code_lo, p.code_hi, p.code_bits);
}

// The code before the table of an accumulator.
template <Rounding kRounding, Overflow kOverflow, typename Wide, typename Factor>
YHW_HD Wide requant_code(Wide acc, int shift, const RequantParams<Wide, Factor>& p) {
  const bool negative = acc < Wide(0);
  return product_code<kRounding, kOverflow>(Wide(acc * Wide(requant_factor(negative, p))), negative, shift, p);
}

// A code of a node without table, brought between its smallest and largest output code.
template <typename Wide, typename Factor>
YHW_HD Wide clamp_code(Wide code, const RequantParams<Wide, Factor>& p) {
  return code < p.clamp_lo ? p.clamp_lo : (code > p.clamp_hi ? p.clamp_hi : code);
}

// The output code of a node without table.
template <Rounding kRounding, Overflow kOverflow, typename Wide, typename Factor>
YHW_HD Wide requant(Wide acc, int shift, const RequantParams<Wide, Factor>& p) {
  return clamp_code(requant_code<kRounding, kOverflow>(acc, shift, p), p);
}

}  // namespace yhw

#endif  // YHW_CORE_REQUANT_H_
