// SPDX-License-Identifier: Apache-2.0
// The host side of sparse_conv2d, the same for every device: check, make contiguous, allocate, choose the type.
// A device is a struct with run<Real>(shape, args, slope, x, weights, bias, y), static; tensors are contiguous.
#ifndef YHW_SPARSE_CONV2D_H_
#define YHW_SPARSE_CONV2D_H_

#include "sparse_conv2d_checks.h"

namespace yhw {

struct PackedTensors {
  Tensor values, taps, starts;
  int64_t cells;  // entries of starts, less 1
};

// x: [N, C, H, W]; values: [blocks, block_rows]; taps: [blocks]; starts: [cells + 1]; bias: [out_channels].
template <typename Device>
Tensor sparse_conv2d(const Tensor& x, const Tensor& values, const Tensor& taps, const Tensor& starts,
                     const std::optional<Tensor>& bias, int64_t out_channels, std::vector<int64_t> kernel_size,
                     int64_t chunk, std::vector<int64_t> stride, std::vector<int64_t> padding,
                     std::vector<int64_t> dilation, int64_t groups, int64_t activation, double slope) {
  const SparseConvArgs args{out_channels, kernel_size, chunk, stride, padding, dilation, groups, activation};
  const sparse::ConvShape shape = check_sparse_conv2d_shape(x, args);
  const int64_t cells = check_sparse_conv2d_weights(x, values, taps, starts, bias, args);
  const Tensor in = torch::stable::contiguous(x);
  const PackedTensors packed{torch::stable::contiguous(values), torch::stable::contiguous(taps),
                             torch::stable::contiguous(starts), cells};
  std::optional<Tensor> offset;
  if (bias.has_value()) {
    offset = torch::stable::contiguous(*bias);
  }
  Tensor y = torch::stable::new_empty(in, {shape.batch, out_channels, shape.out_height(), shape.out_width()});
  x.scalar_type() == ScalarType::Float ? Device::template run<float>(shape, args, slope, in, packed, offset, y)
                                       : Device::template run<double>(shape, args, slope, in, packed, offset, y);
  return y;
}

}  // namespace yhw

#endif  // YHW_SPARSE_CONV2D_H_
