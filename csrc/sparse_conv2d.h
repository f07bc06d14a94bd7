// SPDX-License-Identifier: Apache-2.0
// The host side of sparse_conv2d, the same for every device: check, make contiguous, allocate, choose the type.
// A device is a struct with run<Element>(shape, args, slope, x, weights, bias, y), for float and double, and
// run_codes(shape, args, x, weights, bias, y), both static; tensors are contiguous.
#ifndef YHW_SPARSE_CONV2D_H_
#define YHW_SPARSE_CONV2D_H_

#include <torch/csrc/stable/library.h>

#include "sparse_conv2d_checks.h"

namespace yhw {

struct PackedTensors {
  Tensor values, taps, starts;
  int64_t cells;  // entries of starts, less 1
};

// Checked arguments.
struct SparseConv2d {
  sparse::ConvShape shape;
  SparseConvArgs args;
  double slope;
  Tensor x;
  PackedTensors packed;
  std::optional<Tensor> bias;

  std::vector<int64_t> sizes() const { return {shape.batch, args.out_channels, shape.out_height(), shape.out_width()}; }

  // y: contiguous, of those sizes and the type of the sums.
  template <typename Device>
  void run(Tensor& y) const {
    const void* const offsets = bias.has_value() ? bias->const_data_ptr() : nullptr;
    void* const to = y.mutable_data_ptr();
    switch (x.scalar_type()) {
      case ScalarType::Float:
        return Device::run(shape, args, slope, x, packed, static_cast<const float*>(offsets), static_cast<float*>(to));
      case ScalarType::Double:
        return Device::run(shape, args, slope, x, packed, static_cast<const double*>(offsets),
                           static_cast<double*>(to));
      default:
        return Device::run_codes(shape, args, x, packed, static_cast<const int32_t*>(offsets),
                                 static_cast<int32_t*>(to));
    }
  }
};

inline SparseConv2d checked_sparse_conv2d(const Tensor& x, const Tensor& values, const Tensor& taps,
                                          const Tensor& starts, const std::optional<Tensor>& bias,
                                          const SparseConvArgs& args, double slope) {
  const sparse::ConvShape shape = check_sparse_conv2d_shape(x, args);
  const int64_t cells = check_sparse_conv2d_weights(x, values, taps, starts, bias, args);
  std::optional<Tensor> offset;
  if (bias.has_value()) {
    offset = torch::stable::contiguous(*bias);
  }
  return {
      shape,
      args,
      slope,
      torch::stable::contiguous(x),
      {torch::stable::contiguous(values), torch::stable::contiguous(taps), torch::stable::contiguous(starts), cells},
      offset};
}

// x: [N, C, H, W]; values: [blocks, block_rows] or, of codes, [blocks, block_rows, 4]; taps: [blocks];
// starts: [cells + 1]; bias: [out_channels].
template <typename Device>
Tensor sparse_conv2d(const Tensor& x, const Tensor& values, const Tensor& taps, const Tensor& starts,
                     const std::optional<Tensor>& bias, int64_t out_channels, std::vector<int64_t> kernel_size,
                     int64_t chunk, std::vector<int64_t> stride, std::vector<int64_t> padding,
                     std::vector<int64_t> dilation, int64_t groups, int64_t activation, double slope) {
  const SparseConvArgs args{out_channels, kernel_size, chunk, stride, padding, dilation, groups, activation};
  const SparseConv2d conv = checked_sparse_conv2d(x, values, taps, starts, bias, args, slope);
  Tensor y = torch::stable::new_empty(conv.x, conv.sizes(), sum_type_of(x.scalar_type()));
  conv.run<Device>(y);
  return y;
}

// The same into out.
template <typename Device>
void sparse_conv2d_out(const Tensor& x, const Tensor& values, const Tensor& taps, const Tensor& starts,
                       const std::optional<Tensor>& bias, int64_t out_channels, std::vector<int64_t> kernel_size,
                       int64_t chunk, std::vector<int64_t> stride, std::vector<int64_t> padding,
                       std::vector<int64_t> dilation, int64_t groups, int64_t activation, double slope, Tensor out) {
  const SparseConvArgs args{out_channels, kernel_size, chunk, stride, padding, dilation, groups, activation};
  const SparseConv2d conv = checked_sparse_conv2d(x, values, taps, starts, bias, args, slope);
  check_sparse_conv2d_out(out, conv.x, conv.sizes());
  conv.run<Device>(out);
}

template <typename Device, typename Library>
void register_sparse_conv2d(Library& m) {
  m.impl("sparse_conv2d", TORCH_BOX(&sparse_conv2d<Device>));
  m.impl("sparse_conv2d.out", TORCH_BOX(&sparse_conv2d_out<Device>));
}

}  // namespace yhw

#endif  // YHW_SPARSE_CONV2D_H_
