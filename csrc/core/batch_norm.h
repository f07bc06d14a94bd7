// SPDX-License-Identifier: Apache-2.0
// Batch normalisation of one channel with the statistics of its n values, in training (docs/batch_norm.md):
//   y = (x - mean) * weight / sqrt(var + eps) + bias
// and its gradient. Sums are float64 and shifted by one of the values (Chan, Golub, LeVeque, "Algorithms for Computing
// the Sample Variance", 1983), so that one pass gives both moments without cancellation.
#ifndef YHW_CORE_BATCH_NORM_H_
#define YHW_CORE_BATCH_NORM_H_

#include <cmath>

#include "config.h"

namespace yhw {

// Two sums over a channel. Forward: of x - shift and of its square; backward: of grad and of grad * (x - mean).
struct NormSums {
  double first;
  double second;
};

// Mean and biased variance of n values from their shifted sums.
YHW_HD double norm_mean(const NormSums& sums, double shift, double n) { return shift + sums.first / n; }
YHW_HD double norm_var(const NormSums& sums, double n) {
  const double var = (sums.second - sums.first * (sums.first / n)) / n;
  return var < 0 ? 0 : var;
}

// 1 / sqrt(var + eps); zero where var + eps is not positive, so that a constant channel without eps gives its bias.
YHW_HD double norm_inverse_std(double var, double eps) {
  const double sum = var + eps;
  return sum > 0 ? 1 / std::sqrt(sum) : 0;
}

// y = (x - mean) * scale + offset.
template <typename Real>
struct NormForward {
  Real mean;
  Real scale;
  Real offset;
};

// grad_x = grad * scale - (x - mean) * slope - offset.
template <typename Real>
struct NormBackward {
  Real mean;
  Real scale;
  Real slope;
  Real offset;
};

template <typename Real>
YHW_HD NormForward<Real> norm_forward(double mean, double var, double weight, double bias, double eps) {
  return {static_cast<Real>(mean), static_cast<Real>(weight * norm_inverse_std(var, eps)), static_cast<Real>(bias)};
}

template <typename Real>
YHW_HD NormBackward<Real> norm_backward(const NormSums& sums, double mean, double var, double weight, double eps,
                                        double n) {
  const double inverse = norm_inverse_std(var, eps), scale = weight * inverse;
  return {static_cast<Real>(mean), static_cast<Real>(scale),
          static_cast<Real>(scale * inverse * (inverse * sums.second / n)), static_cast<Real>(scale * sums.first / n)};
}

template <typename Real>
YHW_HD Real normalise(Real x, Real mean, Real scale, Real offset) {
  return (x - mean) * scale + offset;
}

template <typename Real>
YHW_HD Real normalise_grad(Real grad, Real x, Real mean, Real scale, Real slope, Real offset) {
  return grad * scale - (x - mean) * slope - offset;
}

}  // namespace yhw

#endif  // YHW_CORE_BATCH_NORM_H_
