// SPDX-License-Identifier: Apache-2.0
// Bodies of batch_norm_rows.h, included by one source per instruction set. Everything here is local to it.
#ifndef YHW_CPU_BATCH_NORM_ROWS_IMPL_H_
#define YHW_CPU_BATCH_NORM_ROWS_IMPL_H_

#include "batch_norm_rows.h"

namespace yhw {
namespace {

template <bool kChannelsLast, typename Real>
void norm_sums(const Real* __restrict x, int64_t rows, int64_t width, const Real* __restrict shift,
               double* __restrict first, double* __restrict second) {
  for (int64_t r = 0; r < rows; ++r, x += width) {
    for (int64_t i = 0; i < width; ++i) {
      const double part = static_cast<double>(x[i]) - static_cast<double>(shift[kChannelsLast ? i : 0]);
      first[i] += part;
      second[i] += part * part;
    }
  }
}

template <bool kChannelsLast, typename Real>
void norm_apply(const Real* __restrict x, int64_t rows, int64_t width, const NormForwardRows<Real>& by,
                Real* __restrict y) {
  const Real* __restrict mean = by.mean;
  const Real* __restrict scale = by.scale;
  const Real* __restrict offset = by.offset;
  for (int64_t r = 0; r < rows; ++r, x += width, y += width) {
    for (int64_t i = 0; i < width; ++i) {
      const int64_t c = kChannelsLast ? i : 0;
      y[i] = normalise(x[i], mean[c], scale[c], offset[c]);
    }
  }
}

template <bool kChannelsLast, typename Real>
void norm_grad_sums(const Real* __restrict grad, const Real* __restrict x, int64_t rows, int64_t width,
                    const Real* __restrict mean, double* __restrict first, double* __restrict second) {
  for (int64_t r = 0; r < rows; ++r, x += width, grad += width) {
    for (int64_t i = 0; i < width; ++i) {
      const double part = static_cast<double>(x[i]) - static_cast<double>(mean[kChannelsLast ? i : 0]);
      first[i] += static_cast<double>(grad[i]);
      second[i] += static_cast<double>(grad[i]) * part;
    }
  }
}

template <bool kChannelsLast, typename Real>
void norm_grad(const Real* __restrict grad, const Real* __restrict x, int64_t rows, int64_t width,
               const NormBackwardRows<Real>& by, Real* __restrict grad_x) {
  const Real* __restrict mean = by.mean;
  const Real* __restrict scale = by.scale;
  const Real* __restrict slope = by.slope;
  const Real* __restrict offset = by.offset;
  for (int64_t r = 0; r < rows; ++r, x += width, grad += width, grad_x += width) {
    for (int64_t i = 0; i < width; ++i) {
      const int64_t c = kChannelsLast ? i : 0;
      grad_x[i] = normalise_grad(grad[i], x[i], mean[c], scale[c], slope[c], offset[c]);
    }
  }
}

template <bool kChannelsLast, typename Real>
NormRows<Real> norm_rows_of() {
  return {norm_sums<kChannelsLast, Real>, norm_apply<kChannelsLast, Real>, norm_grad_sums<kChannelsLast, Real>,
          norm_grad<kChannelsLast, Real>};
}

template <typename Real>
NormRows<Real> choose_norm_rows(bool channels_last) {
  return channels_last ? norm_rows_of<true, Real>() : norm_rows_of<false, Real>();
}

}  // namespace
}  // namespace yhw

#endif  // YHW_CPU_BATCH_NORM_ROWS_IMPL_H_
