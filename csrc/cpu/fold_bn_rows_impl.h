// SPDX-License-Identifier: Apache-2.0
// Bodies of fold_bn_rows.h, included by one source per instruction set. Everything here is local to it.
#ifndef YHW_CPU_FOLD_BN_ROWS_IMPL_H_
#define YHW_CPU_FOLD_BN_ROWS_IMPL_H_

#include "fold_bn_rows.h"

namespace yhw {
namespace {

template <typename Policy, typename Real>
void fold_row(const Real* __restrict weight, int64_t count, Real factor, const FoldFormat<Real>& shared,
              Real* __restrict out) {
  const FoldFormat<Real> format = shared;
  for (int64_t i = 0; i < count; ++i) {
    out[i] = Policy::value(weight[i] * factor, format);
  }
}

// `count` at most kFoldLanes elements, one per lane.
template <typename Policy, typename Real>
YHW_HD void fold_lanes_backward(const Real* __restrict grad, const Real* __restrict weight, int count, Real factor,
                                const FoldFormat<Real>& format, Real* __restrict grad_weight, Real* __restrict lanes) {
  for (int lane = 0; lane < count; ++lane) {
    const Real passed = Policy::grad(grad[lane], weight[lane] * factor, format);
    grad_weight[lane] = passed * factor;
    lanes[lane] += passed * weight[lane];
  }
}

template <typename Policy, typename Real>
Real fold_row_backward(const Real* __restrict grad, const Real* __restrict weight, int64_t count, Real factor,
                       const FoldFormat<Real>& shared, Real* __restrict grad_weight) {
  const FoldFormat<Real> format = shared;
  Real lanes[kFoldLanes] = {};
  int64_t i = 0;
  for (; i + kFoldLanes <= count; i += kFoldLanes) {
    fold_lanes_backward<Policy>(grad + i, weight + i, kFoldLanes, factor, format, grad_weight + i, lanes);
  }
  fold_lanes_backward<Policy>(grad + i, weight + i, static_cast<int>(count - i), factor, format, grad_weight + i,
                              lanes);
  return tree_sum<kFoldLanes>(lanes);
}

template <typename Real>
FoldRows<Real> choose_fold_rows(bool quantise, Rounding rounding, Overflow overflow) {
  FoldRows<Real> rows{};
  with_fold_policy(quantise, rounding, overflow, [&](auto policy) {
    rows = {fold_row<decltype(policy), Real>, fold_row_backward<decltype(policy), Real>};
  });
  return rows;
}

}  // namespace
}  // namespace yhw

#endif  // YHW_CPU_FOLD_BN_ROWS_IMPL_H_
