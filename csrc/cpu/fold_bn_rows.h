// SPDX-License-Identifier: Apache-2.0
// The loops over one channel's weights, compiled once per instruction set with equal bits.
#ifndef YHW_CPU_FOLD_BN_ROWS_H_
#define YHW_CPU_FOLD_BN_ROWS_H_

#include <cstdint>

#include "../core/fold_bn.h"

namespace yhw {

template <typename Real>
struct FoldRows {
  // weight: [count] -> out: [count].
  void (*forward)(const Real* weight, int64_t count, Real factor, const FoldFormat<Real>& format, Real* out);
  // grad: [count], of the result; grad_weight: [count]. Returns the sum of passed gradient * weight.
  Real (*backward)(const Real* grad, const Real* weight, int64_t count, Real factor, const FoldFormat<Real>& format,
                   Real* grad_weight);
};

// The loops for a mode; `quantise` false leaves the folded weights as they are.
template <typename Real>
FoldRows<Real> fold_rows_baseline(bool quantise, Rounding rounding, Overflow overflow);
template <typename Real>
FoldRows<Real> fold_rows_avx2(bool quantise, Rounding rounding, Overflow overflow);
template <typename Real>
FoldRows<Real> fold_rows_avx512(bool quantise, Rounding rounding, Overflow overflow);

}  // namespace yhw

#endif  // YHW_CPU_FOLD_BN_ROWS_H_
