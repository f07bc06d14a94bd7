// SPDX-License-Identifier: Apache-2.0
// Batch-norm folding of one output channel (docs/batch_norm.md): with f = gamma / sqrt(max(var, 0) + eps),
//   w_hat = w * f,  b_hat = beta + (bias - mean) * f,
// the gradients of both, and what may be done to a folded weight in the same pass.
#ifndef YHW_CORE_FOLD_BN_H_
#define YHW_CORE_FOLD_BN_H_

#include <cmath>

#include "fake_quant.h"

namespace yhw {

// A channel's gradient is summed in this many partial sums, element i of the channel in sum i % kFoldLanes, and these
// by `tree_sum`: the same order on every instruction set, number of threads and device.
constexpr int kFoldLanes = 64;
static_assert((kFoldLanes & (kFoldLanes - 1)) == 0, "tree_sum halves the number of lanes");

// Sum of `lanes`, which it overwrites: lane i takes lane i + n/2, then n is halved.
template <int kLanes, typename Real>
YHW_HD Real tree_sum(Real* lanes) {
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) {
      lanes[i] += lanes[i + half];
    }
  }
  return lanes[0];
}

// The parameters of one channel.
template <typename Real>
struct ChannelStats {
  Real bias;  // of the layer before the batch norm
  Real gamma;
  Real beta;
  Real mean;
  Real var;
};

// sqrt(max(var, 0) + eps); a negative variance counts as zero (docs/numerics.md section 4), NaN stays NaN.
template <typename Real>
YHW_HD Real fold_std(Real var, Real eps) {
  return std::sqrt((var < Real(0) ? Real(0) : var) + eps);
}

template <typename Real>
YHW_HD Real fold_factor(const ChannelStats<Real>& channel, Real eps) {
  return channel.gamma / fold_std(channel.var, eps);
}

template <typename Real>
YHW_HD Real fold_bias(const ChannelStats<Real>& channel, Real factor) {
  return channel.beta + (channel.bias - channel.mean) * factor;
}

// Gradients to the parameters of one channel: `weight_sum` is the sum of grad_w_hat * w over the channel. A clamped
// variance has none.
template <typename Real>
YHW_HD ChannelStats<Real> fold_grads(const ChannelStats<Real>& channel, Real eps, Real weight_sum, Real grad_bias) {
  const Real std = fold_std(channel.var, eps);
  const Real factor = channel.gamma / std;
  const Real grad_factor = weight_sum + grad_bias * (channel.bias - channel.mean);
  ChannelStats<Real> grads;
  grads.bias = grad_bias * factor;
  grads.gamma = grad_factor / std;
  grads.beta = grad_bias;
  grads.mean = -grads.bias;
  grads.var = channel.var < Real(0) ? Real(0) : Real(-0.5) * grad_factor * factor / (std * std);
  return grads;
}

// The format of a channel's folded weights. The constants that all channels share come from outside of the loops.
template <typename Real>
struct FoldFormat {
  Real scale;  // 2^frac
  Real step;   // 2^-frac
  CodeRange range;
  PassRange<Real> pass;
};

// A folded weight as it is.
struct KeepFolded {
  template <typename Real>
  YHW_HD Real value(Real w_hat, const FoldFormat<Real>&) {
    return w_hat;
  }
  template <typename Real>
  YHW_HD Real grad(Real grad, Real, const FoldFormat<Real>&) {
    return grad;
  }
};

// A folded weight on the grid of its format; straight-through gradient.
template <Rounding kRounding, Overflow kOverflow>
struct QuantiseFolded {
  template <typename Real>
  YHW_HD Real value(Real w_hat, const FoldFormat<Real>& format) {
    return fake_quant<kRounding, kOverflow>(w_hat, format.scale, format.step, format.range);
  }
  template <typename Real>
  YHW_HD Real grad(Real grad, Real w_hat, const FoldFormat<Real>& format) {
    return fake_quant_grad<kOverflow>(grad, w_hat, format.scale, format.pass);
  }
};

// Calls body(policy) with the one of the policies above that the modes ask for.
template <typename Body>
void with_fold_policy(bool quantise, Rounding rounding, Overflow overflow, const Body& body) {
  if (!quantise) {
    body(KeepFolded{});
    return;
  }
  with_modes(rounding, overflow, [&](auto rounding_tag, auto overflow_tag) {
    body(QuantiseFolded<decltype(rounding_tag)::value, decltype(overflow_tag)::value>{});
  });
}

}  // namespace yhw

#endif  // YHW_CORE_FOLD_BN_H_
