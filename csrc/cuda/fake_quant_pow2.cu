// SPDX-License-Identifier: Apache-2.0
#include "../fake_quant_pow2.h"
#include "../library.h"
#include "launch.cuh"

namespace yhw {
namespace {

// frac of elements i.. of a tensor [outer, channels, inner]; see `same_frac`.
__device__ __forceinline__ int frac_at(const int32_t* frac, const ChannelLayout& layout, int64_t i) {
  return frac[layout.channels == 1 ? 0 : (i / layout.inner) % layout.channels];
}

// Whether packs that begin at multiples of their width never reach into a second channel.
bool same_frac(const ChannelLayout& layout, int width) { return layout.channels == 1 || layout.inner % width == 0; }

template <typename Real, Rounding kRounding, Overflow kOverflow>
struct Forward {
  const Real* x;
  const int32_t* frac;
  ChannelLayout layout;
  CodeRange range;
  // outputs
  Real* y;

  template <int kWidth>
  __device__ void run(int64_t i) const {
    const int f = frac_at(frac, layout, i);
    const Real scale = power_of_two<Real>(f), step = power_of_two<Real>(-f);
    auto pack = load_pack<kWidth>(x + i);
    for (int j = 0; j < kWidth; ++j) {
      pack[j] = fake_quant<kRounding, kOverflow>(pack[j], scale, step, range);
    }
    store_pack(y + i, pack);
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

  template <int kWidth>
  __device__ void run(int64_t i) const {
    const Real scale = power_of_two<Real>(frac_at(frac, layout, i));
    const auto in = load_pack<kWidth>(x + i);
    auto pack = load_pack<kWidth>(grad + i);
    for (int j = 0; j < kWidth; ++j) {
      pack[j] = fake_quant_grad<kRounding, kOverflow>(pack[j], in[j], scale, range);
    }
    store_pack(grad_x + i, pack);
  }
};

struct Cuda {
  // The values stay on the device and are not checked: one outside of the limits gives 0, infinity or NaN.
  static void check_fracs(const Tensor&) {}

  template <typename Real>
  static void forward(const Tensor& x, const Tensor& frac, const FakeQuantArgs& args,
                      // outputs
                      Tensor& y) {
    constexpr int kWidth = kPackWidth<Real>;
    const bool packs = same_frac(args.layout, kWidth) && is_aligned(x.const_data_ptr(), 16);
    with_modes(args.rounding, args.overflow, [&](auto rounding, auto overflow) {
      for_each_pack<kWidth>(
          x, x.numel(), packs,
          Forward<Real, decltype(rounding)::value, decltype(overflow)::value>{
              static_cast<const Real*>(x.const_data_ptr()), static_cast<const int32_t*>(frac.const_data_ptr()),
              args.layout, args.range, static_cast<Real*>(y.mutable_data_ptr())});
    });
  }

  template <typename Real>
  static void backward(const Tensor& grad, const Tensor& x, const Tensor& frac, const FakeQuantArgs& args,
                       // outputs
                       Tensor& grad_x) {
    constexpr int kWidth = kPackWidth<Real>;
    const bool packs =
        same_frac(args.layout, kWidth) && is_aligned(x.const_data_ptr(), 16) && is_aligned(grad.const_data_ptr(), 16);
    with_modes(args.rounding, args.overflow, [&](auto rounding, auto overflow) {
      for_each_pack<kWidth>(
          x, x.numel(), packs,
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
