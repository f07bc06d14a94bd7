// SPDX-License-Identifier: Apache-2.0
// Arguments of the batch-norm folding operators: what a layer is, and the checks of it.
#ifndef YHW_FOLD_BN_CHECKS_H_
#define YHW_FOLD_BN_CHECKS_H_

#include <cmath>
#include <vector>

#include "core/fold_bn.h"
#include "tensor_layout.h"

namespace yhw {

using Tensors = std::vector<Tensor>;

// A weight in memory: [groups, rows, channels, inner], dense; output channel k = group * channels + channel. Everything
// but a transposed convolution has one group and one row.
struct FoldLayout {
  int64_t groups;
  int64_t rows;
  int64_t channels;
  int64_t inner;
};

// The tensors of one layer; `bias` may have no elements (zero), and gamma, beta, mean and var may all have none: a
// layer without batch norm, whose factor is 1.
struct FoldLayer {
  Tensor weight;
  Tensor bias;
  Tensor gamma;
  Tensor beta;
  Tensor mean;
  Tensor var;
};

// How the folded weights are quantised, if they are.
struct FoldMode {
  bool quantise;
  CodeRange range;
  Rounding rounding;
  Overflow overflow;
};

// Whether x is dense with dimension 1 innermost, by torch's rule: strides of dimensions of size 1 do not count.
inline bool is_channels_last(const Tensor& x) {
  if (x.dim() != 4) {
    return false;
  }
  int64_t expected = 1;
  for (const int64_t d : {1, 3, 2, 0}) {
    if (x.size(d) != 1 && x.stride(d) != expected) {
      return false;
    }
    expected *= x.size(d);
  }
  return true;
}

// x as dense memory of the given order.
inline Tensor dense(const Tensor& x, bool channels_last) {
  using torch::headeronly::MemoryFormat;
  return torch::stable::contiguous(x, channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

// The weight's order in memory is kept where output channels are outermost in it.
inline bool keeps_channels_last(const Tensor& weight, int64_t transposed_groups) {
  return transposed_groups == 0 && !weight.is_contiguous() && is_channels_last(weight);
}

inline FoldLayout fold_layout(const char* op, const Tensor& weight, int64_t transposed_groups) {
  STD_TORCH_CHECK(weight.dim() >= 2, op, ": weight must have at least 2 dimensions, got ", weight.dim());
  STD_TORCH_CHECK(transposed_groups >= 0, op, ": transposed_groups must not be negative, got ", transposed_groups);
  if (transposed_groups == 0) {
    return {1, 1, weight.size(0), weight.size(0) == 0 ? 0 : weight.numel() / weight.size(0)};
  }
  STD_TORCH_CHECK(weight.size(0) % transposed_groups == 0, op,
                  ": dimension 0 of a transposed weight must be a multiple", " of its ", transposed_groups,
                  " groups, got ", weight.size(0));
  const int64_t outer = weight.size(0) * weight.size(1);
  return {transposed_groups, weight.size(0) / transposed_groups, weight.size(1),
          outer == 0 ? 0 : weight.numel() / outer};
}

// A vector of `channels` values that belongs to `owner`.
inline void check_norm_vector(const char* op, const char* name, const Tensor& vector, const Tensor& owner,
                              int64_t channels, const char* owner_name = "x") {
  STD_TORCH_CHECK(vector.scalar_type() == owner.scalar_type(), op, ": ", name, " must have the dtype of ", owner_name);
  STD_TORCH_CHECK(vector.device() == owner.device(), op, ": ", name, " must be on the device of ", owner_name);
  STD_TORCH_CHECK(vector.dim() == 1 && vector.size(0) == channels, op, ": ", name, " must have shape [", channels,
                  "], got ", vector.dim(), " dimensions and ", vector.numel(), " values");
}

// Checks one layer and returns its layout.
inline FoldLayout check_fold_layer(const char* op, const FoldLayer& layer, double eps, int64_t transposed_groups) {
  const ScalarType dtype = layer.weight.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double, op, ": weight must be float32 or float64");
  const double rounded = dtype == ScalarType::Float ? static_cast<double>(static_cast<float>(eps)) : eps;
  STD_TORCH_CHECK(rounded > 0 && std::isfinite(rounded), op, ": eps must be positive and finite in the dtype of ",
                  "weight, got ", eps);
  const FoldLayout layout = fold_layout(op, layer.weight, transposed_groups);
  const int64_t channels = layout.groups * layout.channels;
  check_norm_vector(op, "bias", layer.bias, layer.weight, layer.bias.numel() == 0 ? 0 : channels, "weight");
  const bool has_norm =
      layer.gamma.numel() != 0 || layer.beta.numel() != 0 || layer.mean.numel() != 0 || layer.var.numel() != 0;
  const int64_t expected = has_norm ? channels : 0;
  check_norm_vector(op, "gamma", layer.gamma, layer.weight, expected, "weight");
  check_norm_vector(op, "beta", layer.beta, layer.weight, expected, "weight");
  check_norm_vector(op, "mean", layer.mean, layer.weight, expected, "weight");
  check_norm_vector(op, "var", layer.var, layer.weight, expected, "weight");
  return layout;
}

inline void check_fold_frac(const char* op, const Tensor& frac, const Tensor& weight, int64_t channels) {
  STD_TORCH_CHECK(frac.scalar_type() == ScalarType::Int, op, ": frac must be int32");
  STD_TORCH_CHECK(frac.device() == weight.device(), op, ": frac must be on the device of weight");
  STD_TORCH_CHECK(frac.dim() == 1 && (frac.numel() == 1 || frac.numel() == channels), op, ": frac must have 1 or ",
                  channels, " values, got ", frac.numel());
}

inline FoldMode fold_mode(const char* op, int64_t bits, bool is_signed, int64_t rounding, int64_t overflow) {
  // Unsigned codes have one bit less, so that every code fits an int16.
  const int64_t max_bits = is_signed ? kMaxBits : kMaxBits - 1;
  const CodeRange range = check_format(op, bits, max_bits, is_signed, rounding, overflow);
  return {true, range, static_cast<Rounding>(rounding), static_cast<Overflow>(overflow)};
}

}  // namespace yhw

#endif  // YHW_FOLD_BN_CHECKS_H_
