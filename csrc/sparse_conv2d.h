// SPDX-License-Identifier: Apache-2.0
// The host side of sparse_conv2d, the same for every device: check, make contiguous, allocate, choose the type.
// A device is a struct with run<Element>(shape, args, slope, x, weights, bias, y), for float and double, and
// run_codes(shape, args, x, weights, bias, y), both static; tensors are contiguous.
#ifndef YHW_SPARSE_CONV2D_H_
#define YHW_SPARSE_CONV2D_H_

#include "sparse_conv2d_checks.h"

namespace yhw {

struct PackedTensors {
  Tensor values, taps, starts;
  int64_t cells;  // entries of starts, less 1
};

// x: [N, C, H, W]; values: [blocks, block_rows] or, of codes, [blocks, block_rows, 4]; taps: [blocks];
// starts: [cells + 1]; bias: [out_channels].
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
  const void* const offsets = offset.has_value() ? offset->const_data_ptr() : nullptr;
  Tensor y = torch::stable::new_empty(in, {shape.batch, out_channels, shape.out_height(), shape.out_width()},
                                      sum_type_of(x.scalar_type()));
  void* const to = y.mutable_data_ptr();
  switch (x.scalar_type()) {
    case ScalarType::Float:
      Device::run(shape, args, slope, in, packed, static_cast<const float*>(offsets), static_cast<float*>(to));
      break;
    case ScalarType::Double:
      Device::run(shape, args, slope, in, packed, static_cast<const double*>(offsets), static_cast<double*>(to));
      break;
    default:
      Device::run_codes(shape, args, in, packed, static_cast<const int32_t*>(offsets), static_cast<int32_t*>(to));
  }
  return y;
}

}  // namespace yhw

#endif  // YHW_SPARSE_CONV2D_H_
