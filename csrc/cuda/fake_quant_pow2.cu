// SPDX-License-Identifier: Apache-2.0
#include "../fake_quant_pow2.h"
#include "../library.h"
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

struct Cuda {
  // The values stay on the device and are not checked: one outside of the limits gives 0, infinity or NaN.
  static void check_fracs(const Tensor&) {}

  template <typename Real>
  static void forward(const Tensor& x, const Tensor& frac, const FakeQuantArgs& args,
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
  static void backward(const Tensor& grad, const Tensor& x, const Tensor& frac, const FakeQuantArgs& args,
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
};

}  // namespace
}  // namespace yhw

YHW_LIBRARY_CUDA(m) {
  m.impl("fake_quant_pow2", TORCH_BOX(&yhw::fake_quant_pow2<yhw::Cuda>));
  m.impl("fake_quant_pow2_backward", TORCH_BOX(&yhw::fake_quant_pow2_backward<yhw::Cuda>));
}
