// SPDX-License-Identifier: Apache-2.0
// The host side of fake_quant_pow2, the same for every device: check, make contiguous, allocate, choose the type.
// A device is a struct with check_fracs(frac), forward<Real>(x, frac, args, y) and
// backward<Real>(grad, x, frac, args, grad_x), all static; tensors are contiguous.
#ifndef YHW_FAKE_QUANT_POW2_H_
#define YHW_FAKE_QUANT_POW2_H_

#include <torch/csrc/stable/ops.h>

#include "checks.h"

namespace yhw {

// x: [...]; frac: [1] or [x.size(axis)].
template <typename Device>
Tensor fake_quant_pow2(const Tensor& x, const Tensor& frac, int64_t axis, int64_t bits, bool is_signed,
                       int64_t rounding, int64_t overflow) {
  const FakeQuantArgs args = check_fake_quant_pow2(x, frac, axis, bits, is_signed, rounding, overflow);
  const Tensor in = torch::stable::contiguous(x), fracs = torch::stable::contiguous(frac);
  Device::check_fracs(fracs);
  Tensor y = torch::stable::empty_like(in);
  x.scalar_type() == ScalarType::Float ? Device::template forward<float>(in, fracs, args, y)
                                       : Device::template forward<double>(in, fracs, args, y);
  return y;
}

// grad: like x.
template <typename Device>
Tensor fake_quant_pow2_backward(const Tensor& grad, const Tensor& x, const Tensor& frac, int64_t axis, int64_t bits,
                                bool is_signed, int64_t rounding, int64_t overflow) {
  const FakeQuantArgs args = check_fake_quant_pow2_backward(grad, x, frac, axis, bits, is_signed, rounding, overflow);
  const Tensor dy = torch::stable::contiguous(grad), in = torch::stable::contiguous(x);
  const Tensor fracs = torch::stable::contiguous(frac);
  Device::check_fracs(fracs);
  Tensor dx = torch::stable::empty_like(in);
  x.scalar_type() == ScalarType::Float ? Device::template backward<float>(dy, in, fracs, args, dx)
                                       : Device::template backward<double>(dy, in, fracs, args, dx);
  return dx;
}

}  // namespace yhw

#endif  // YHW_FAKE_QUANT_POW2_H_
