// SPDX-License-Identifier: Apache-2.0
// From an accumulator to an output code: the one formula every computing node ends with (docs/numerics.md section 3).
// The numpy twin is yolo_hw/intgraph/requant.py.
#ifndef YHW_CORE_REQUANT_H_
#define YHW_CORE_REQUANT_H_

#include "rounding.h"

namespace yhw {

// What all output channels of a node share; the shift is per channel.
template <typename Wide>
struct RequantParams {
  Wide mul_pos;   // factor of accumulators >= 0
  Wide mul_neg;   // factor of accumulators < 0
  int shift_neg;  // added to the shift of accumulators < 0
  Wide code_lo;   // format of the code before table or clamp
  Wide code_hi;
  int code_bits;
  Wide clamp_lo;  // smallest and largest output code, where there is no table
  Wide clamp_hi;
};

// The code before the table: overflow(round_shift(acc * mul, shift)).
template <Rounding kRounding, Overflow kOverflow, typename Wide>
YHW_HD Wide requant_code(Wide acc, int shift, const RequantParams<Wide>& p) {
  const bool negative = acc < Wide(0);
  const Wide product = acc * (negative ? p.mul_neg : p.mul_pos);
  const Wide rounded = round_shift<kRounding>(product, shift + (negative ? p.shift_neg : 0));
  return overflow<kOverflow>(rounded, p.code_lo, p.code_hi, p.code_bits);
}

// The output code of a node without table.
template <Rounding kRounding, Overflow kOverflow, typename Wide>
YHW_HD Wide requant(Wide acc, int shift, const RequantParams<Wide>& p) {
  const Wide code = requant_code<kRounding, kOverflow>(acc, shift, p);
  return code < p.clamp_lo ? p.clamp_lo : (code > p.clamp_hi ? p.clamp_hi : code);
}

}  // namespace yhw

#endif  // YHW_CORE_REQUANT_H_
