// SPDX-License-Identifier: Apache-2.0
// Argument checks of sparse_conv2d. What is in the index arrays is checked as well: a kernel reads where they point.
#ifndef YHW_SPARSE_CONV2D_CHECKS_H_
#define YHW_SPARSE_CONV2D_CHECKS_H_

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "sparse/quads.h"

namespace yhw {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The numbers of a call.
struct SparseConvArgs {
  int64_t out_channels;
  std::vector<int64_t> kernel_size;
  int64_t chunk;
  std::vector<int64_t> stride, padding, dilation;
  int64_t groups, activation;
};

inline bool is_code(ScalarType type) { return type == ScalarType::Char || type == ScalarType::Byte; }

// The type of the weights, and that of bias and result, for a type of x.
inline ScalarType weight_type_of(ScalarType x) { return is_code(x) ? ScalarType::Char : x; }
inline ScalarType sum_type_of(ScalarType x) { return is_code(x) ? ScalarType::Int : x; }

inline void check_pair(const char* name, const std::vector<int64_t>& pair, int64_t least) {
  STD_TORCH_CHECK(pair.size() == 2, "sparse_conv2d: ", name, " must have 2 values, got ", pair.size());
  for (const int64_t value : pair) {
    STD_TORCH_CHECK(value >= least, "sparse_conv2d: ", name, " must be at least ", least, ", got ", value);
  }
}

inline sparse::ConvShape check_sparse_conv2d_shape(const Tensor& x, const SparseConvArgs& a) {
  const ScalarType type = x.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double || is_code(type),
                  "sparse_conv2d: x must be float32, float64, int8 or uint8");
  STD_TORCH_CHECK(x.dim() == 4, "sparse_conv2d: x must have 4 dimensions (N, C, H, W), got ", x.dim());
  check_pair("kernel_size", a.kernel_size, 1);
  check_pair("stride", a.stride, 1);
  check_pair("padding", a.padding, 0);
  check_pair("dilation", a.dilation, 1);
  STD_TORCH_CHECK(a.groups >= 1, "sparse_conv2d: groups must be at least 1, got ", a.groups);
  STD_TORCH_CHECK(x.size(1) % a.groups == 0 && x.size(1) > 0, "sparse_conv2d: the channels of x must be a multiple of ",
                  a.groups, " (groups), got ", x.size(1));
  STD_TORCH_CHECK(a.out_channels >= 1 && a.out_channels % a.groups == 0,
                  "sparse_conv2d: out_channels must be a multiple of ", a.groups, " (groups), got ", a.out_channels);
  STD_TORCH_CHECK(a.chunk >= 1, "sparse_conv2d: chunk must be at least 1, got ", a.chunk);
  STD_TORCH_CHECK(a.activation >= 0 && a.activation <= 3, "sparse_conv2d: activation must be in [0, 3], got ",
                  a.activation);
  STD_TORCH_CHECK(a.activation == 0 || !is_code(type),
                  "sparse_conv2d: activation must be 0 (none) for int8 and uint8, got ", a.activation);
  const sparse::ConvShape s{x.size(0),        x.size(1),        x.size(2),     x.size(3),   a.out_channels,
                            a.kernel_size[0], a.kernel_size[1], a.stride[0],   a.stride[1], a.padding[0],
                            a.padding[1],     a.dilation[0],    a.dilation[1], a.groups};
  for (int d = 0; d < 2; ++d) {
    const size_t i = static_cast<size_t>(d);
    const int64_t padded = x.size(2 + d) + 2 * a.padding[i], reach = a.dilation[i] * (a.kernel_size[i] - 1) + 1;
    STD_TORCH_CHECK(padded >= reach, "sparse_conv2d: the padded input must not be smaller than the dilated kernel (",
                    reach, " in dimension ", 2 + d, "), got ", padded);
  }
  return s;
}

// Shapes and types of the packed weights; returns block rows of the weight times chunks.
inline int64_t check_sparse_conv2d_weights(const Tensor& x, const Tensor& values, const Tensor& taps,
                                           const Tensor& starts, const std::optional<Tensor>& bias,
                                           const SparseConvArgs& a) {
  const ScalarType type = x.scalar_type();
  STD_TORCH_CHECK(values.scalar_type() == weight_type_of(type),
                  "sparse_conv2d: values must have the dtype of x, or int8 for int8 and uint8");
  STD_TORCH_CHECK(taps.scalar_type() == ScalarType::Short, "sparse_conv2d: taps must be int16");
  STD_TORCH_CHECK(starts.scalar_type() == ScalarType::Int, "sparse_conv2d: starts must be int32");
  STD_TORCH_CHECK(values.device() == x.device() && taps.device() == x.device() && starts.device() == x.device(),
                  "sparse_conv2d: values, taps and starts must be on the device of x");
  if (is_code(type)) {
    STD_TORCH_CHECK(values.dim() == 3 && values.size(1) >= 1 && values.size(2) == sparse::kQuad,
                    "sparse_conv2d: values of int8 must be [blocks, block_rows, 4], got ", values.dim(), " dimensions");
    STD_TORCH_CHECK(reinterpret_cast<uintptr_t>(values.const_data_ptr()) % sparse::kQuad == 0,
                    "sparse_conv2d: values of int8 must be aligned to 4 bytes");
  } else {
    STD_TORCH_CHECK(values.dim() == 2 && values.size(1) >= 1,
                    "sparse_conv2d: values must be [blocks, block_rows], got ", values.dim(), " dimensions");
  }
  STD_TORCH_CHECK(taps.dim() == 1 && taps.size(0) == values.size(0), "sparse_conv2d: taps must have ", values.size(0),
                  " entries (the blocks of values), got ", taps.numel());
  const int64_t rows = values.size(1);
  STD_TORCH_CHECK(a.groups == 1 || a.out_channels / a.groups % rows == 0,
                  "sparse_conv2d: with groups, the output channels of a group must be a multiple of ", rows,
                  " (block rows), got ", a.out_channels / a.groups);
  const int64_t codes = x.size(1) / a.groups, channels = is_code(type) ? sparse::quads_of(codes) : codes;
  const int64_t cells = (a.out_channels + rows - 1) / rows * ((channels + a.chunk - 1) / a.chunk);
  STD_TORCH_CHECK(starts.dim() == 1 && starts.size(0) == cells + 1, "sparse_conv2d: starts must have ", cells + 1,
                  " entries (block rows times chunks of channels, and 1), got ", starts.numel());
  const int64_t taps_of_chunk = a.chunk << sparse::tap_bits(a.kernel_size[0] * a.kernel_size[1]);
  STD_TORCH_CHECK(taps_of_chunk <= 32768, "sparse_conv2d: a chunk must have at most 32768 taps, got ", taps_of_chunk);
  if (bias.has_value()) {
    STD_TORCH_CHECK(bias->scalar_type() == sum_type_of(type),
                    "sparse_conv2d: bias must have the dtype of x, or int32 for int8 and uint8");
    STD_TORCH_CHECK(bias->device() == x.device(), "sparse_conv2d: bias must be on the device of x");
    STD_TORCH_CHECK(bias->dim() == 1 && bias->numel() == a.out_channels, "sparse_conv2d: bias must have ",
                    a.out_channels, " values (out_channels), got ", bias->numel());
  }
  return cells;
}

// starts: [cells + 1]; they rise from 0 to the number of blocks.
inline void check_sparse_starts(const int32_t* starts, int64_t cells, int64_t blocks) {
  STD_TORCH_CHECK(starts[0] == 0 && starts[cells] == blocks, "sparse_conv2d: starts must run from 0 to ", blocks,
                  " (blocks), got ", starts[0], " to ", starts[cells]);
  for (int64_t i = 0; i < cells; ++i) {
    STD_TORCH_CHECK(starts[i] <= starts[i + 1], "sparse_conv2d: starts must not fall, got ", starts[i], " then ",
                    starts[i + 1], " at ", i + 1);
  }
}

inline void check_sparse_conv2d_out(const Tensor& out, const Tensor& x, const std::vector<int64_t>& sizes) {
  STD_TORCH_CHECK(out.scalar_type() == sum_type_of(x.scalar_type()),
                  "sparse_conv2d: out must have the dtype of x, or int32 for int8 and uint8");
  STD_TORCH_CHECK(out.device() == x.device(), "sparse_conv2d: out must be on the device of x");
  bool same = out.dim() == static_cast<int64_t>(sizes.size());
  for (int64_t i = 0; same && i < out.dim(); ++i) {
    same = out.size(i) == sizes[static_cast<size_t>(i)];
  }
  STD_TORCH_CHECK(same && out.is_contiguous(), "sparse_conv2d: out must be contiguous and have shape [", sizes[0], ", ",
                  sizes[1], ", ", sizes[2], ", ", sizes[3], "]");
}

}  // namespace yhw

#endif  // YHW_SPARSE_CONV2D_CHECKS_H_
