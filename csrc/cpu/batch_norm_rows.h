// SPDX-License-Identifier: Apache-2.0
// The loops of batch_norm over a matrix [rows, width] of x, compiled once per instruction set with equal bits. In
// channels-last memory a row has one value per channel and coefficients and sums are arrays of `width`; else the matrix
// is part of one channel, the coefficients are one value each, and the sums are `width` partial sums of the channel.
#ifndef YHW_CPU_BATCH_NORM_ROWS_H_
#define YHW_CPU_BATCH_NORM_ROWS_H_

#include <cstdint>

#include "../core/batch_norm.h"

namespace yhw {

template <typename Real>
struct NormForwardRows {
  const Real* mean;
  const Real* scale;
  const Real* offset;
};

template <typename Real>
struct NormBackwardRows {
  const Real* mean;
  const Real* scale;
  const Real* slope;
  const Real* offset;
};

template <typename Real>
struct NormRows {
  // Adds x - shift and its square to the sums.
  void (*sums)(const Real* x, int64_t rows, int64_t width, const Real* shift, double* first, double* second);
  void (*normalise)(const Real* x, int64_t rows, int64_t width, const NormForwardRows<Real>& by, Real* y);
  // Adds grad and grad * (x - mean) to the sums.
  void (*grad_sums)(const Real* grad, const Real* x, int64_t rows, int64_t width, const Real* mean, double* first,
                    double* second);
  void (*grad)(const Real* grad, const Real* x, int64_t rows, int64_t width, const NormBackwardRows<Real>& by,
               Real* grad_x);
};

template <typename Real>
NormRows<Real> norm_rows_baseline(bool channels_last);
template <typename Real>
NormRows<Real> norm_rows_avx2(bool channels_last);
template <typename Real>
NormRows<Real> norm_rows_avx512(bool channels_last);

}  // namespace yhw

#endif  // YHW_CPU_BATCH_NORM_ROWS_H_
