// SPDX-License-Identifier: Apache-2.0
// The host side of fold_bn and fold_bn_fake_quant, the same for every device: check, make dense, allocate, choose the
// type. A device is a struct with check_fracs(op, frac), forward<Real>(tasks, mode) and backward<Real>(tasks, mode),
// all static; every task is one layer, as raw pointers.
#ifndef YHW_FOLD_BN_H_
#define YHW_FOLD_BN_H_

#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "fold_bn_checks.h"

namespace yhw {

// Per-channel vectors of one layer; null where the layer has none.
template <typename Pointer>
struct FoldVectors {
  Pointer bias;
  Pointer gamma;
  Pointer beta;
  Pointer mean;
  Pointer var;
};

// One layer.
template <typename Real>
struct FoldTask {
  FoldLayout layout;
  Real eps;
  const Real* weight;  // the layout
  FoldVectors<const Real*> vectors;
  const int32_t* frac;  // [1] or [K]; null where nothing is quantised
  bool frac_per_channel;
  // outputs of the forward, gradients to them in the backward
  Real* out_weight;             // the layout
  Real* out_bias;               // [K]
  const Real* grad_out_weight;  // the layout
  const Real* grad_out_bias;    // [K]
  // outputs of the backward
  Real* grad_weight;  // the layout
  FoldVectors<Real*> grads;
};

// Where the weights of a channel lie: element i of it at begin + (i / inner) * stride + i % inner.
struct ChannelRuns {
  int64_t begin;
  int64_t stride;
  int64_t runs;
  int64_t inner;
};

YHW_HD ChannelRuns channel_runs(const FoldLayout& layout, int64_t channel) {
  const int64_t group = channel / layout.channels, row = layout.channels * layout.inner;
  return {group * layout.rows * row + channel % layout.channels * layout.inner, row, layout.rows, layout.inner};
}

template <typename Real>
YHW_HD ChannelStats<Real> channel_stats(const FoldVectors<const Real*>& vectors, int64_t channel) {
  return {vectors.bias == nullptr ? Real(0) : vectors.bias[channel], vectors.gamma[channel], vectors.beta[channel],
          vectors.mean[channel], vectors.var[channel]};
}

// The factor of a channel's weights; 1 without batch norm.
template <typename Real>
YHW_HD Real channel_factor(const FoldTask<Real>& task, int64_t channel) {
  return task.vectors.gamma == nullptr ? Real(1) : fold_factor(channel_stats(task.vectors, channel), task.eps);
}

template <typename Real>
YHW_HD Real channel_bias(const FoldTask<Real>& task, int64_t channel, Real factor) {
  if (task.vectors.gamma == nullptr) {
    return task.vectors.bias == nullptr ? Real(0) : task.vectors.bias[channel];
  }
  return fold_bias(channel_stats(task.vectors, channel), factor);
}

// Writes the gradients to a channel's parameters.
template <typename Real>
YHW_HD void write_channel_grads(const FoldTask<Real>& task, int64_t channel, Real weight_sum) {
  const Real grad_bias = task.grad_out_bias[channel];
  if (task.vectors.gamma == nullptr) {
    if (task.grads.bias != nullptr) {
      task.grads.bias[channel] = grad_bias;
    }
    return;
  }
  const ChannelStats<Real> grads = fold_grads(channel_stats(task.vectors, channel), task.eps, weight_sum, grad_bias);
  if (task.grads.bias != nullptr) {
    task.grads.bias[channel] = grads.bias;
  }
  task.grads.gamma[channel] = grads.gamma;
  task.grads.beta[channel] = grads.beta;
  task.grads.mean[channel] = grads.mean;
  task.grads.var[channel] = grads.var;
}

// The format of a channel; `shared` has what all channels of the call have in common.
template <typename Real>
YHW_HD FoldFormat<Real> channel_format(const FoldTask<Real>& task, const FoldFormat<Real>& shared, int64_t channel) {
  if (task.frac == nullptr) {
    return shared;
  }
  const int frac = task.frac[task.frac_per_channel ? channel : 0];
  return {power_of_two<Real>(frac), power_of_two<Real>(-frac), shared.range, shared.pass};
}

template <typename Real>
FoldFormat<Real> shared_format(const FoldMode& mode) {
  FoldFormat<Real> format{Real(1), Real(1), mode.range, {}};
  if (mode.quantise) {
    with_modes(mode.rounding, mode.overflow, [&](auto rounding, auto overflow) {
      format.pass = pass_range<decltype(rounding)::value, decltype(overflow)::value, Real>(mode.range);
    });
  }
  return format;
}

template <typename Real>
const Real* read_pointer(const Tensor& x) {
  return x.numel() == 0 ? nullptr : static_cast<const Real*>(x.const_data_ptr());
}

template <typename Real>
Real* write_pointer(Tensor& x) {
  return x.numel() == 0 ? nullptr : static_cast<Real*>(x.mutable_data_ptr());
}

// The layers of one call: dense tensors, and what a task needs besides them.
struct FoldCall {
  const char* op;
  FoldMode mode;
  double eps;
  std::vector<FoldLayer> layers;
  std::vector<FoldLayout> layouts;
  std::vector<bool> channels_last;
  Tensors fracs;

  // Adds a layer; its tensors are made dense.
  template <typename Device>
  void add(const FoldLayer& layer, const Tensor* frac, int64_t transposed_groups) {
    layouts.push_back(check_fold_layer(op, layer, eps, transposed_groups));
    const FoldLayout& layout = layouts.back();
    channels_last.push_back(keeps_channels_last(layer.weight, transposed_groups));
    const FoldLayer& first = layers.empty() ? layer : layers.front();
    STD_TORCH_CHECK(layer.weight.scalar_type() == first.weight.scalar_type(), op, ": all weights must have one dtype");
    STD_TORCH_CHECK(layer.weight.device() == first.weight.device(), op, ": all weights must be on one device");
    layers.push_back({dense(layer.weight, channels_last.back()), dense(layer.bias, false), dense(layer.gamma, false),
                      dense(layer.beta, false), dense(layer.mean, false), dense(layer.var, false)});
    if (frac != nullptr) {
      check_fold_frac(op, *frac, layer.weight, layout.groups * layout.channels);
      fracs.push_back(dense(*frac, false));
      Device::check_fracs(op, fracs.back());
    }
  }

  int64_t channels(size_t i) const { return layouts[i].groups * layouts[i].channels; }

  bool is_float() const { return layers.empty() || layers.front().weight.scalar_type() == ScalarType::Float; }

  // Layer i without its outputs.
  template <typename Real>
  FoldTask<Real> task(size_t i) const {
    const FoldLayer& layer = layers[i];
    FoldTask<Real> task{};
    task.layout = layouts[i];
    task.eps = static_cast<Real>(eps);
    task.weight = read_pointer<Real>(layer.weight);
    task.vectors = {read_pointer<Real>(layer.bias), read_pointer<Real>(layer.gamma), read_pointer<Real>(layer.beta),
                    read_pointer<Real>(layer.mean), read_pointer<Real>(layer.var)};
    if (mode.quantise) {
      task.frac = static_cast<const int32_t*>(fracs[i].const_data_ptr());
      task.frac_per_channel = fracs[i].numel() > 1;
    }
    return task;
  }

  // Runs the forward; out_weights are like the weights, out_biases [K].
  template <typename Device>
  void forward(Tensors& out_weights, Tensors& out_biases) const {
    is_float() ? forward_as<Device, float>(out_weights, out_biases)
               : forward_as<Device, double>(out_weights, out_biases);
  }

  template <typename Device, typename Real>
  void forward_as(Tensors& out_weights, Tensors& out_biases) const {
    std::vector<FoldTask<Real>> tasks;
    for (size_t i = 0; i < layers.size(); ++i) {
      tasks.push_back(task<Real>(i));
      tasks.back().out_weight = write_pointer<Real>(out_weights[i]);
      tasks.back().out_bias = write_pointer<Real>(out_biases[i]);
    }
    if (!tasks.empty()) {
      Device::template forward<Real>(layers.front().weight, tasks, mode);
    }
  }

  // Runs the backward; the gradients are dense, in the order of the weights, and `grads` is like `layers`.
  template <typename Device, typename Real>
  void backward_as(const Tensors& grad_weights, const Tensors& grad_biases, std::vector<FoldLayer>& grads) const {
    std::vector<FoldTask<Real>> tasks;
    for (size_t i = 0; i < layers.size(); ++i) {
      tasks.push_back(task<Real>(i));
      FoldTask<Real>& added = tasks.back();
      added.grad_out_weight = read_pointer<Real>(grad_weights[i]);
      added.grad_out_bias = read_pointer<Real>(grad_biases[i]);
      added.grad_weight = write_pointer<Real>(grads[i].weight);
      added.grads = {write_pointer<Real>(grads[i].bias), write_pointer<Real>(grads[i].gamma),
                     write_pointer<Real>(grads[i].beta), write_pointer<Real>(grads[i].mean),
                     write_pointer<Real>(grads[i].var)};
    }
    if (!tasks.empty()) {
      Device::template backward<Real>(layers.front().weight, tasks, mode);
    }
  }

  // grad_weights: like the weights; grad_biases: [K] each. Returns gradients shaped as the layers.
  template <typename Device>
  std::vector<FoldLayer> backward(const Tensors& grad_weights, const Tensors& grad_biases) const {
    Tensors dense_weights, dense_biases;
    std::vector<FoldLayer> grads;
    for (size_t i = 0; i < layers.size(); ++i) {
      const FoldLayer& layer = layers[i];
      check_like(op, "grad_weight", grad_weights[i], layer.weight, "weight");
      check_norm_vector(op, "grad_bias", grad_biases[i], layer.weight, channels(i), "weight");
      dense_weights.push_back(dense(grad_weights[i], channels_last[i]));
      dense_biases.push_back(dense(grad_biases[i], false));
      using torch::stable::empty_like;
      grads.push_back({empty_like(layer.weight), empty_like(layer.bias), empty_like(layer.gamma),
                       empty_like(layer.beta), empty_like(layer.mean), empty_like(layer.var)});
    }
    is_float() ? backward_as<Device, float>(dense_weights, dense_biases, grads)
               : backward_as<Device, double>(dense_weights, dense_biases, grads);
    return grads;
  }
};

// weight: [K, ...]; with transposed_groups > 0 [C, K / transposed_groups, ...]; bias: [K] or [0]; the vectors: [K].
template <typename Device>
std::tuple<Tensor, Tensor> fold_bn(const Tensor& weight, const Tensor& bias, const Tensor& gamma, const Tensor& beta,
                                   const Tensor& mean, const Tensor& var, double eps, int64_t transposed_groups) {
  FoldCall call{"fold_bn", FoldMode{}, eps, {}, {}, {}, {}};
  call.add<Device>({weight, bias, gamma, beta, mean, var}, nullptr, transposed_groups);
  Tensors weights{torch::stable::empty_like(call.layers[0].weight)};
  Tensors biases{torch::stable::new_empty(weight, {call.channels(0)})};
  call.forward<Device>(weights, biases);
  return {weights[0], biases[0]};
}

// grad_weight: like weight; grad_bias: [K]. Returns the gradients to weight, bias, gamma, beta, mean and var.
template <typename Device>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> fold_bn_backward(
    const Tensor& grad_weight, const Tensor& grad_bias, const Tensor& weight, const Tensor& bias, const Tensor& gamma,
    const Tensor& beta, const Tensor& mean, const Tensor& var, double eps, int64_t transposed_groups) {
  FoldCall call{"fold_bn_backward", FoldMode{}, eps, {}, {}, {}, {}};
  call.add<Device>({weight, bias, gamma, beta, mean, var}, nullptr, transposed_groups);
  const FoldLayer grads = call.backward<Device>({grad_weight}, {grad_bias})[0];
  return {grads.weight, grads.bias, grads.gamma, grads.beta, grads.mean, grads.var};
}

// The layers of a call of the many-layer operators.
template <typename Device>
FoldCall fold_call(const char* op, const FoldMode& mode, const Tensors& weights, const Tensors& biases,
                   const Tensors& gammas, const Tensors& betas, const Tensors& means, const Tensors& vars,
                   const Tensors& fracs, double eps, const std::vector<int64_t>& transposed_groups) {
  const size_t count = weights.size();
  const size_t counts[] = {biases.size(), gammas.size(),           betas.size(), means.size(), vars.size(),
                           fracs.size(),  transposed_groups.size()};
  for (const size_t found : counts) {
    STD_TORCH_CHECK(found == count, op, ": all lists must have one entry per weight, ", count, ", got ", found);
  }
  FoldCall call{op, mode, eps, {}, {}, {}, {}};
  for (size_t i = 0; i < count; ++i) {
    call.add<Device>({weights[i], biases[i], gammas[i], betas[i], means[i], vars[i]}, &fracs[i], transposed_groups[i]);
  }
  return call;
}

// Every list has one entry per layer, each as in fold_bn; fracs: [1] or [K].
template <typename Device>
std::tuple<Tensors, Tensors> fold_bn_fake_quant(const Tensors& weights, const Tensors& biases, const Tensors& gammas,
                                                const Tensors& betas, const Tensors& means, const Tensors& vars,
                                                const Tensors& fracs, double eps,
                                                const std::vector<int64_t>& transposed_groups, int64_t bits,
                                                bool is_signed, int64_t rounding, int64_t overflow) {
  const char* op = "fold_bn_fake_quant";
  const FoldMode mode = fold_mode(op, bits, is_signed, rounding, overflow);
  const FoldCall call =
      fold_call<Device>(op, mode, weights, biases, gammas, betas, means, vars, fracs, eps, transposed_groups);
  Tensors out_weights, out_biases;
  for (size_t i = 0; i < weights.size(); ++i) {
    out_weights.push_back(torch::stable::empty_like(call.layers[i].weight));
    out_biases.push_back(torch::stable::new_empty(weights[i], {call.channels(i)}));
  }
  call.forward<Device>(out_weights, out_biases);
  return {out_weights, out_biases};
}

// out_weights: like the weights as they lie in memory, out_biases: [K] each; both are overwritten.
template <typename Device>
void fold_bn_fake_quant_out(const Tensors& weights, const Tensors& biases, const Tensors& gammas, const Tensors& betas,
                            const Tensors& means, const Tensors& vars, const Tensors& fracs, double eps,
                            const std::vector<int64_t>& transposed_groups, int64_t bits, bool is_signed,
                            int64_t rounding, int64_t overflow, Tensors out_weights, Tensors out_biases) {
  const char* op = "fold_bn_fake_quant_out";
  const FoldMode mode = fold_mode(op, bits, is_signed, rounding, overflow);
  const FoldCall call =
      fold_call<Device>(op, mode, weights, biases, gammas, betas, means, vars, fracs, eps, transposed_groups);
  STD_TORCH_CHECK(out_weights.size() == weights.size() && out_biases.size() == weights.size(), op,
                  ": there must be one output per weight, ", weights.size(), ", got ", out_weights.size(), " and ",
                  out_biases.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    check_like(op, "out_weight", out_weights[i], weights[i], "weight");
    check_norm_vector(op, "out_bias", out_biases[i], weights[i], call.channels(i), "weight");
    STD_TORCH_CHECK(out_biases[i].is_contiguous(), op, ": out_bias must be contiguous");
    STD_TORCH_CHECK(call.channels_last[i] ? is_channels_last(out_weights[i]) : out_weights[i].is_contiguous(), op,
                    ": out_weight must lie in memory as the dense weight does");
  }
  call.forward<Device>(out_weights, out_biases);
}

// grad_weights: like the weights; grad_biases: [K] each. Returns the gradients to the first six lists.
template <typename Device>
std::tuple<Tensors, Tensors, Tensors, Tensors, Tensors, Tensors> fold_bn_fake_quant_backward(
    const Tensors& grad_weights, const Tensors& grad_biases, const Tensors& weights, const Tensors& biases,
    const Tensors& gammas, const Tensors& betas, const Tensors& means, const Tensors& vars, const Tensors& fracs,
    double eps, const std::vector<int64_t>& transposed_groups, int64_t bits, bool is_signed, int64_t rounding,
    int64_t overflow) {
  const char* op = "fold_bn_fake_quant_backward";
  const FoldMode mode = fold_mode(op, bits, is_signed, rounding, overflow);
  const FoldCall call =
      fold_call<Device>(op, mode, weights, biases, gammas, betas, means, vars, fracs, eps, transposed_groups);
  STD_TORCH_CHECK(grad_weights.size() == weights.size() && grad_biases.size() == weights.size(), op,
                  ": there must be one gradient per weight, ", weights.size(), ", got ", grad_weights.size(), " and ",
                  grad_biases.size());
  std::tuple<Tensors, Tensors, Tensors, Tensors, Tensors, Tensors> result;
  for (const FoldLayer& grads : call.backward<Device>(grad_weights, grad_biases)) {
    std::get<0>(result).push_back(grads.weight);
    std::get<1>(result).push_back(grads.bias);
    std::get<2>(result).push_back(grads.gamma);
    std::get<3>(result).push_back(grads.beta);
    std::get<4>(result).push_back(grads.mean);
    std::get<5>(result).push_back(grads.var);
  }
  return result;
}

}  // namespace yhw

#endif  // YHW_FOLD_BN_H_
