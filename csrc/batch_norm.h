// SPDX-License-Identifier: Apache-2.0
// The host side of batch_norm, the same for every device: check, make dense, allocate, choose the type. A device is a
// struct with forward<Real>(task) and backward<Real>(task), all static; a task holds raw pointers.
#ifndef YHW_BATCH_NORM_H_
#define YHW_BATCH_NORM_H_

#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "core/batch_norm.h"
#include "fold_bn_checks.h"

namespace yhw {

// x in memory: [batch, channels, inner], or [batch, inner, channels] channels-last.
struct NormLayout {
  int64_t batch;
  int64_t channels;
  int64_t inner;
  bool channels_last;

  int64_t values() const { return batch * inner; }  // per channel
};

// Partial sums of a channel that has its values in runs: value i of an image goes to sum i % kNormLanes, these are
// added by halves.
constexpr int kNormLanes = 256;
// Channels-last: rows of one partial sum; these are added in order.
constexpr int64_t kNormChunkRows = 256;

template <typename Real>
struct NormTask {
  NormLayout layout;
  const Real* x;       // the layout
  const Real* weight;  // [C]
  const Real* bias;    // [C]; forward only
  const Real* eps;     // [1] or [C]
  bool eps_per_channel;
  const Real* grad;  // the layout; backward only
  // outputs of the forward, inputs of the backward
  Real* mean;  // [C]
  Real* var;   // [C]
  // outputs
  Real* result;  // the layout: y or grad_x
  Real* grad_weight;
  Real* grad_bias;
};

template <typename Real>
YHW_HD double channel_eps(const NormTask<Real>& task, int64_t channel) {
  return static_cast<double>(task.eps[task.eps_per_channel ? channel : 0]);
}

// Returns how to normalise a channel and, if `write`, writes its statistics; the first value of a channel is the shift.
template <typename Real>
YHW_HD NormForward<Real> finish_forward(const NormTask<Real>& task, int64_t channel, const NormSums& sums,
                                        bool write = true) {
  const NormLayout& layout = task.layout;
  const double shift = static_cast<double>(task.x[layout.channels_last ? channel : channel * layout.inner]);
  const double n = static_cast<double>(layout.batch * layout.inner);
  const double mean = norm_mean(sums, shift, n), var = norm_var(sums, n);
  if (write) {
    task.mean[channel] = static_cast<Real>(mean);
    task.var[channel] = static_cast<Real>(var);
  }
  return norm_forward<Real>(mean, var, static_cast<double>(task.weight[channel]),
                            static_cast<double>(task.bias[channel]), channel_eps(task, channel));
}

// Returns how to get the gradients of a channel's values and, if `write`, writes those of its parameters.
template <typename Real>
YHW_HD NormBackward<Real> finish_backward(const NormTask<Real>& task, int64_t channel, const NormSums& sums,
                                          bool write = true) {
  const double var = static_cast<double>(task.var[channel]), eps = channel_eps(task, channel);
  const double n = static_cast<double>(task.layout.batch * task.layout.inner);
  if (write) {
    task.grad_weight[channel] = static_cast<Real>(sums.second * norm_inverse_std(var, eps));
    task.grad_bias[channel] = static_cast<Real>(sums.first);
  }
  return norm_backward<Real>(sums, static_cast<double>(task.mean[channel]), var,
                             static_cast<double>(task.weight[channel]), eps, n);
}

inline NormLayout check_batch_norm(const char* op, const Tensor& x, const Tensor& eps) {
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double, op,
                  ": x must be float32 or float64");
  STD_TORCH_CHECK(x.dim() >= 2, op, ": x must have at least 2 dimensions, got ", x.dim());
  const int64_t channels = x.size(1);
  check_norm_vector(op, "eps", eps, x, eps.numel() == 1 ? 1 : channels);
  const int64_t values = channels == 0 ? 1 : x.numel() / channels;
  STD_TORCH_CHECK(values > 0, op, ": x must have at least one value per channel");
  const bool channels_last = !x.is_contiguous() && is_channels_last(x);
  return {x.size(0), channels, x.size(0) == 0 ? 0 : values / x.size(0), channels_last};
}

template <typename Real>
NormTask<Real> norm_task(const NormLayout& layout, const Tensor& x, const Tensor& weight, const Tensor& eps) {
  NormTask<Real> task{};
  task.layout = layout;
  task.x = static_cast<const Real*>(x.const_data_ptr());
  task.weight = static_cast<const Real*>(weight.const_data_ptr());
  task.eps = static_cast<const Real*>(eps.const_data_ptr());
  task.eps_per_channel = eps.numel() > 1;
  return task;
}

// x: [N, C, ...]; weight, bias: [C]; eps: [1] or [C]. Returns y like x, mean and biased variance [C].
template <typename Device>
std::tuple<Tensor, Tensor, Tensor> batch_norm(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                              const Tensor& eps) {
  const NormLayout layout = check_batch_norm("batch_norm", x, eps);
  check_norm_vector("batch_norm", "weight", weight, x, layout.channels);
  check_norm_vector("batch_norm", "bias", bias, x, layout.channels);
  const Tensor in = dense(x, layout.channels_last), scale = dense(weight, false), offset = dense(bias, false);
  const Tensor added = dense(eps, false);
  Tensor y = torch::stable::empty_like(in), mean = torch::stable::empty_like(scale);
  Tensor var = torch::stable::empty_like(scale);
  const auto run = [&](auto zero) {
    using Real = decltype(zero);
    NormTask<Real> task = norm_task<Real>(layout, in, scale, added);
    task.bias = static_cast<const Real*>(offset.const_data_ptr());
    task.mean = static_cast<Real*>(mean.mutable_data_ptr());
    task.var = static_cast<Real*>(var.mutable_data_ptr());
    task.result = static_cast<Real*>(y.mutable_data_ptr());
    Device::forward(in, task);
  };
  x.scalar_type() == ScalarType::Float ? run(float()) : run(double());
  return {y, mean, var};
}

// grad: like x; mean, var: of the forward. Returns the gradients to x, weight and bias.
template <typename Device>
std::tuple<Tensor, Tensor, Tensor> batch_norm_backward(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                                       const Tensor& mean, const Tensor& var, const Tensor& eps) {
  const char* op = "batch_norm_backward";
  const NormLayout layout = check_batch_norm(op, x, eps);
  check_like(op, "grad", grad, x, "x");
  check_norm_vector(op, "weight", weight, x, layout.channels);
  check_norm_vector(op, "mean", mean, x, layout.channels);
  check_norm_vector(op, "var", var, x, layout.channels);
  const Tensor in = dense(x, layout.channels_last), dy = dense(grad, layout.channels_last);
  const Tensor scale = dense(weight, false), added = dense(eps, false);
  Tensor means = dense(mean, false), vars = dense(var, false);
  Tensor grad_x = torch::stable::empty_like(in), grad_weight = torch::stable::empty_like(scale);
  Tensor grad_bias = torch::stable::empty_like(scale);
  const auto run = [&](auto zero) {
    using Real = decltype(zero);
    NormTask<Real> task = norm_task<Real>(layout, in, scale, added);
    task.grad = static_cast<const Real*>(dy.const_data_ptr());
    task.mean = static_cast<Real*>(means.mutable_data_ptr());
    task.var = static_cast<Real*>(vars.mutable_data_ptr());
    task.result = static_cast<Real*>(grad_x.mutable_data_ptr());
    task.grad_weight = static_cast<Real*>(grad_weight.mutable_data_ptr());
    task.grad_bias = static_cast<Real*>(grad_bias.mutable_data_ptr());
    Device::backward(in, task);
  };
  x.scalar_type() == ScalarType::Float ? run(float()) : run(double());
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace yhw

#endif  // YHW_BATCH_NORM_H_
