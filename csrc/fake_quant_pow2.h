// SPDX-License-Identifier: Apache-2.0
// The host side of fake_quant_pow2, the same for every device: check, allocate, call the device.
// A device is a struct with static functions
//   forward(x, source, mode, y)
//   backward(grad, x, source, mode, grad_x)
//   learned_backward(grad, x, source, mode, grad_scale, grad_x, grad_parameter)
// Results are dense and of the shape of x; x and grad may lie anyhow.
#ifndef YHW_FAKE_QUANT_POW2_H_
#define YHW_FAKE_QUANT_POW2_H_

#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "fake_quant_pow2_checks.h"

namespace yhw {

using OptionalTensor = std::optional<Tensor>;

// x: [...]; fracs: [1] or [x.size(axis)], in the place of frac. out: like x, dense; it may be x itself.
template <typename Device>
void fake_quant_pow2_out(const Tensor& x, int64_t frac, const OptionalTensor& fracs, int64_t axis, int64_t bits,
                         bool is_signed, int64_t rounding, int64_t overflow, Tensor out) {
  constexpr const char* kOp = "fake_quant_pow2";
  const FracSource source = check_fracs(kOp, x, frac, fracs, axis);
  const FakeQuantMode mode = check_fake_quant_mode(kOp, bits, is_signed, rounding, overflow);
  check_out(kOp, "out", out, x);
  Device::forward(x, source, mode, out);
}

template <typename Device>
Tensor fake_quant_pow2(const Tensor& x, int64_t frac, const OptionalTensor& fracs, int64_t axis, int64_t bits,
                       bool is_signed, int64_t rounding, int64_t overflow) {
  constexpr const char* kOp = "fake_quant_pow2";
  const FracSource source = check_fracs(kOp, x, frac, fracs, axis);
  const FakeQuantMode mode = check_fake_quant_mode(kOp, bits, is_signed, rounding, overflow);
  Tensor y = empty_in_layout(x);
  Device::forward(x, source, mode, y);
  return y;
}

// grad: like x.
template <typename Device>
void fake_quant_pow2_backward_out(const Tensor& grad, const Tensor& x, int64_t frac, const OptionalTensor& fracs,
                                  int64_t axis, int64_t bits, bool is_signed, int64_t rounding, int64_t overflow,
                                  Tensor out) {
  constexpr const char* kOp = "fake_quant_pow2_backward";
  check_like(kOp, "grad", grad, x, "x");
  const FracSource source = check_fracs(kOp, x, frac, fracs, axis);
  const FakeQuantMode mode = check_fake_quant_mode(kOp, bits, is_signed, rounding, overflow);
  check_out(kOp, "out", out, x);
  Device::backward(grad, x, source, mode, out);
}

template <typename Device>
Tensor fake_quant_pow2_backward(const Tensor& grad, const Tensor& x, int64_t frac, const OptionalTensor& fracs,
                                int64_t axis, int64_t bits, bool is_signed, int64_t rounding, int64_t overflow) {
  constexpr const char* kOp = "fake_quant_pow2_backward";
  check_like(kOp, "grad", grad, x, "x");
  const FracSource source = check_fracs(kOp, x, frac, fracs, axis);
  const FakeQuantMode mode = check_fake_quant_mode(kOp, bits, is_signed, rounding, overflow);
  Tensor grad_x = empty_in_layout(x);
  Device::backward(grad, x, source, mode, grad_x);
  return grad_x;
}

// Many tensors in one call; fracs: one [1] or [xs[i].size(axis)] for each.
template <typename Device>
std::vector<Tensor> fake_quant_pow2_many(const std::vector<Tensor>& xs, const std::vector<Tensor>& fracs, int64_t axis,
                                         int64_t bits, bool is_signed, int64_t rounding, int64_t overflow) {
  STD_TORCH_CHECK(xs.size() == fracs.size(), "fake_quant_pow2_many: fracs must have one tensor for each of the ",
                  xs.size(), " of xs, got ", fracs.size());
  std::vector<Tensor> ys;
  ys.reserve(xs.size());
  for (size_t i = 0; i < xs.size(); ++i) {
    ys.push_back(fake_quant_pow2<Device>(xs[i], 0, fracs[i], axis, bits, is_signed, rounding, overflow));
  }
  return ys;
}

template <typename Device>
std::vector<Tensor> fake_quant_pow2_many_backward(const std::vector<Tensor>& grads, const std::vector<Tensor>& xs,
                                                  const std::vector<Tensor>& fracs, int64_t axis, int64_t bits,
                                                  bool is_signed, int64_t rounding, int64_t overflow) {
  STD_TORCH_CHECK(xs.size() == fracs.size() && xs.size() == grads.size(),
                  "fake_quant_pow2_many_backward: grads and fracs must have one tensor for each of the ", xs.size(),
                  " of xs, got ", grads.size(), " and ", fracs.size());
  std::vector<Tensor> grad_xs;
  grad_xs.reserve(xs.size());
  for (size_t i = 0; i < xs.size(); ++i) {
    grad_xs.push_back(
        fake_quant_pow2_backward<Device>(grads[i], xs[i], 0, fracs[i], axis, bits, is_signed, rounding, overflow));
  }
  return grad_xs;
}

// parameter: [1] or [x.size(axis)], the trained numbers of core/learned_step.h; gradient: a StepGradient. The factor of
// the parameter's gradient, grad_scale, is the backward's.
template <typename Device>
void fake_quant_learned_out(const Tensor& x, const Tensor& parameter, int64_t axis, int64_t bits, bool is_signed,
                            int64_t rounding, int64_t overflow, int64_t gradient, Tensor out) {
  constexpr const char* kOp = "fake_quant_learned";
  const FakeQuantMode mode = check_fake_quant_mode(kOp, bits, is_signed, rounding, overflow);
  const FracSource source = check_learned(kOp, x, parameter, axis, gradient, mode);
  check_out(kOp, "out", out, x);
  Device::forward(x, source, mode, out);
}

template <typename Device>
Tensor fake_quant_learned(const Tensor& x, const Tensor& parameter, int64_t axis, int64_t bits, bool is_signed,
                          int64_t rounding, int64_t overflow, int64_t gradient, double /* grad_scale */) {
  constexpr const char* kOp = "fake_quant_learned";
  const FakeQuantMode mode = check_fake_quant_mode(kOp, bits, is_signed, rounding, overflow);
  const FracSource source = check_learned(kOp, x, parameter, axis, gradient, mode);
  Tensor y = empty_in_layout(x);
  Device::forward(x, source, mode, y);
  return y;
}

// grad: like x. Returns the gradients of x and of parameter.
template <typename Device>
void fake_quant_learned_backward_out(const Tensor& grad, const Tensor& x, const Tensor& parameter, int64_t axis,
                                     int64_t bits, bool is_signed, int64_t rounding, int64_t overflow, int64_t gradient,
                                     double grad_scale, Tensor grad_x, Tensor grad_parameter) {
  constexpr const char* kOp = "fake_quant_learned_backward";
  check_like(kOp, "grad", grad, x, "x");
  const FakeQuantMode mode = check_fake_quant_mode(kOp, bits, is_signed, rounding, overflow);
  const FracSource source = check_learned(kOp, x, parameter, axis, gradient, mode);
  check_out(kOp, "grad_x", grad_x, x);
  check_like(kOp, "grad_parameter", grad_parameter, parameter, "parameter");
  Device::learned_backward(grad, x, source, mode, grad_scale, grad_x, grad_parameter);
}

template <typename Device>
std::tuple<Tensor, Tensor> fake_quant_learned_backward(const Tensor& grad, const Tensor& x, const Tensor& parameter,
                                                       int64_t axis, int64_t bits, bool is_signed, int64_t rounding,
                                                       int64_t overflow, int64_t gradient, double grad_scale) {
  Tensor grad_x = empty_in_layout(x), grad_parameter = empty_in_layout(parameter);
  fake_quant_learned_backward_out<Device>(grad, x, parameter, axis, bits, is_signed, rounding, overflow, gradient,
                                          grad_scale, grad_x, grad_parameter);
  return {grad_x, grad_parameter};
}

// The small arguments of an operator in one number: torch needs as long for five more arguments as the kernel of a
// small tensor does. Packed by yolo_hw/ops/_lean_call.py.
struct PackedFormat {
  int64_t axis;
  int64_t overflow;
  int64_t rounding;
  bool is_signed;
  int64_t bits;
  int64_t number;  // fraction bits, or the StepGradient of the learned form

  explicit PackedFormat(int64_t code)
      : axis(code >> 32),
        overflow(code >> 24 & 0xff),
        rounding(code >> 16 & 0xff),
        is_signed((code >> 15 & 1) != 0),
        bits(code >> 8 & 0x7f),
        number((code & 0xff) - 0x80) {}
};

template <typename Device>
Tensor fake_quant_pow2_packed(const Tensor& x, const OptionalTensor& fracs, int64_t format) {
  const PackedFormat f(format);
  return fake_quant_pow2<Device>(x, f.number, fracs, f.axis, f.bits, f.is_signed, f.rounding, f.overflow);
}

template <typename Device>
Tensor fake_quant_pow2_backward_packed(const Tensor& grad, const Tensor& x, const OptionalTensor& fracs,
                                       int64_t format) {
  const PackedFormat f(format);
  return fake_quant_pow2_backward<Device>(grad, x, f.number, fracs, f.axis, f.bits, f.is_signed, f.rounding,
                                          f.overflow);
}

template <typename Device>
Tensor fake_quant_learned_packed(const Tensor& x, const Tensor& parameter, int64_t format) {
  const PackedFormat f(format);
  return fake_quant_learned<Device>(x, parameter, f.axis, f.bits, f.is_signed, f.rounding, f.overflow, f.number, 1);
}

template <typename Device>
std::tuple<Tensor, Tensor> fake_quant_learned_backward_packed(const Tensor& grad, const Tensor& x,
                                                              const Tensor& parameter, int64_t format,
                                                              double grad_scale) {
  const PackedFormat f(format);
  return fake_quant_learned_backward<Device>(grad, x, parameter, f.axis, f.bits, f.is_signed, f.rounding, f.overflow,
                                             f.number, grad_scale);
}

// Registers all of them for a device. The operators whose name begins with an underscore are the same kernels with few
// arguments and without a gradient formula: what autograd's function in Python calls, and calls without a gradient.
template <typename Device, typename Library>
void register_fake_quant_pow2(Library& m) {
  m.impl("fake_quant_pow2", TORCH_BOX(&fake_quant_pow2<Device>));
  m.impl("fake_quant_pow2.out", TORCH_BOX(&fake_quant_pow2_out<Device>));
  m.impl("fake_quant_pow2_backward", TORCH_BOX(&fake_quant_pow2_backward<Device>));
  m.impl("fake_quant_pow2_backward.out", TORCH_BOX(&fake_quant_pow2_backward_out<Device>));
  m.impl("fake_quant_pow2_many", TORCH_BOX(&fake_quant_pow2_many<Device>));
  m.impl("fake_quant_pow2_many_backward", TORCH_BOX(&fake_quant_pow2_many_backward<Device>));
  m.impl("fake_quant_learned", TORCH_BOX(&fake_quant_learned<Device>));
  m.impl("fake_quant_learned.out", TORCH_BOX(&fake_quant_learned_out<Device>));
  m.impl("fake_quant_learned_backward", TORCH_BOX(&fake_quant_learned_backward<Device>));
  m.impl("fake_quant_learned_backward.out", TORCH_BOX(&fake_quant_learned_backward_out<Device>));
  m.impl("_fake_quant_pow2", TORCH_BOX(&fake_quant_pow2_packed<Device>));
  m.impl("_fake_quant_pow2_backward", TORCH_BOX(&fake_quant_pow2_backward_packed<Device>));
  m.impl("_fake_quant_learned", TORCH_BOX(&fake_quant_learned_packed<Device>));
  m.impl("_fake_quant_learned_backward", TORCH_BOX(&fake_quant_learned_backward_packed<Device>));
}

}  // namespace yhw

#endif  // YHW_FAKE_QUANT_POW2_H_
