// SPDX-License-Identifier: Apache-2.0
#include <torch/csrc/stable/library.h>

#include "../checks.h"
#include "../core/fake_quant.h"
#include "launch.cuh"

namespace yhw {
namespace {

// frac of element i of a tensor [outer, channels, inner].
__device__ __forceinline__ int frac_at(const int32_t* frac, const ChannelLayout& layout, int64_t i) {
  return frac[layout.channels == 1 ? 0 : (i / layout.inner) % layout.channels];
}

template <typename Real, Rounding kRounding, Overflow kOverflow>
struct Forward {
  const Real* x;
  const int32_t* frac;
  ChannelLayout layout;
  CodeRange range;
  // outputs
  Real* y;

  __device__ void operator()(int64_t i) const {
    const int f = frac_at(frac, layout, i);
    y[i] = fake_quant<kRounding, kOverflow>(x[i], power_of_two<Real>(f), power_of_two<Real>(-f), range);
  }
};

template <typename Real, Rounding kRounding, Overflow kOverflow>
struct Backward {
  const Real* grad;
  const Real* x;
  const int32_t* frac;
  ChannelLayout layout;
  CodeRange range;
  // outputs
  Real* grad_x;

  __device__ void operator()(int64_t i) const {
    const Real scale = power_of_two<Real>(frac_at(frac, layout, i));
    grad_x[i] = fake_quant_grad<kRounding, kOverflow>(grad[i], x[i], scale, range);
  }
};

template <typename Real>
void forward(const Tensor& x, const Tensor& frac, const FakeQuantArgs& args,
             // outputs
             Tensor& y) {
  with_modes(args.rounding, args.overflow, [&](auto rounding, auto overflow) {
    for_each(x, x.numel(),
             Forward<Real, decltype(rounding)::value, decltype(overflow)::value>{
                 static_cast<const Real*>(x.const_data_ptr()), static_cast<const int32_t*>(frac.const_data_ptr()),
                 args.layout, args.range, static_cast<Real*>(y.mutable_data_ptr())});
  });
}

template <typename Real>
void backward(const Tensor& grad, const Tensor& x, const Tensor& frac, const FakeQuantArgs& args,
              // outputs
              Tensor& grad_x) {
  with_modes(args.rounding, args.overflow, [&](auto rounding, auto overflow) {
    for_each(x, x.numel(),
             Backward<Real, decltype(rounding)::value, decltype(overflow)::value>{
                 static_cast<const Real*>(grad.const_data_ptr()), static_cast<const Real*>(x.const_data_ptr()),
                 static_cast<const int32_t*>(frac.const_data_ptr()), args.layout, args.range,
                 static_cast<Real*>(grad_x.mutable_data_ptr())});
  });
}

// The values of frac stay on the device and are not checked: one outside of the limits gives 0, infinity or NaN.
Tensor fake_quant_pow2(const Tensor& x, const Tensor& frac, int64_t axis, int64_t bits, bool is_signed,
                       int64_t rounding, int64_t overflow) {
  const FakeQuantArgs args = check_fake_quant_pow2(x, frac, axis, bits, is_signed, rounding, overflow);
  const Tensor in = torch::stable::contiguous(x), fracs = torch::stable::contiguous(frac);
  Tensor y = torch::stable::empty_like(in);
  x.scalar_type() == ScalarType::Float ? forward<float>(in, fracs, args, y) : forward<double>(in, fracs, args, y);
  return y;
}

Tensor fake_quant_pow2_backward(const Tensor& grad, const Tensor& x, const Tensor& frac, int64_t axis, int64_t bits,
                                bool is_signed, int64_t rounding, int64_t overflow) {
  const FakeQuantArgs args = check_fake_quant_pow2_backward(grad, x, frac, axis, bits, is_signed, rounding, overflow);
  const Tensor dy = torch::stable::contiguous(grad), in = torch::stable::contiguous(x);
  const Tensor fracs = torch::stable::contiguous(frac);
  Tensor dx = torch::stable::empty_like(in);
  x.scalar_type() == ScalarType::Float ? backward<float>(dy, in, fracs, args, dx)
                                       : backward<double>(dy, in, fracs, args, dx);
  return dx;
}

}  // namespace
}  // namespace yhw

STABLE_TORCH_LIBRARY_IMPL(yolo_hw, CUDA, m) {
  m.impl("fake_quant_pow2", TORCH_BOX(&yhw::fake_quant_pow2));
  m.impl("fake_quant_pow2_backward", TORCH_BOX(&yhw::fake_quant_pow2_backward));
}
