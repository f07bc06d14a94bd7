// SPDX-License-Identifier: Apache-2.0
#include "../fake_quant_pow2.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>

namespace yhw {
namespace {

// Elements per task: large enough to be worth a thread.
constexpr int64_t kGrain = 1 << 15;

// Calls body(begin, end, frac) for runs of elements that share their fraction bits, on all threads.
template <typename Body>
void for_each_run(const ChannelLayout& layout, const int32_t* frac, const Body& body) {
  const int64_t count = layout.outer * layout.channels * layout.inner;
  torch::stable::parallel_for(0, count, kGrain, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t run = begin / layout.inner;
      const int64_t stop = std::min(end, (run + 1) * layout.inner);
      body(begin, stop, frac[run % layout.channels]);
      begin = stop;
    }
  });
}

struct Cpu {
  // frac: [1] or [channels], contiguous.
  static void check_fracs(const Tensor& frac) {
    const auto* values = static_cast<const int32_t*>(frac.const_data_ptr());
    for (int64_t i = 0; i < frac.numel(); ++i) {
      STD_TORCH_CHECK(values[i] >= -kMaxAbsFrac && values[i] <= kMaxAbsFrac, "fake_quant_pow2: frac must be in [",
                      -kMaxAbsFrac, ", ", kMaxAbsFrac, "], got ", values[i]);
    }
  }

  template <typename Real>
  static void forward(const Tensor& x, const Tensor& frac, const FakeQuantArgs& args,
                      // outputs
                      Tensor& y) {
    const auto* in = static_cast<const Real*>(x.const_data_ptr());
    auto* out = static_cast<Real*>(y.mutable_data_ptr());
    with_modes(args.rounding, args.overflow, [&](auto rounding, auto overflow) {
      const auto run = [&](int64_t begin, int64_t end, int f) {
        const Real scale = power_of_two<Real>(f), step = power_of_two<Real>(-f);
        for (int64_t i = begin; i < end; ++i) {
          out[i] = fake_quant<rounding(), overflow()>(in[i], scale, step, args.range);
        }
      };
      for_each_run(args.layout, static_cast<const int32_t*>(frac.const_data_ptr()), run);
    });
  }

  template <typename Real>
  static void backward(const Tensor& grad, const Tensor& x, const Tensor& frac, const FakeQuantArgs& args,
                       // outputs
                       Tensor& grad_x) {
    const auto* dy = static_cast<const Real*>(grad.const_data_ptr());
    const auto* in = static_cast<const Real*>(x.const_data_ptr());
    auto* dx = static_cast<Real*>(grad_x.mutable_data_ptr());
    with_modes(args.rounding, args.overflow, [&](auto rounding, auto overflow) {
      const auto run = [&](int64_t begin, int64_t end, int f) {
        const Real scale = power_of_two<Real>(f);
        for (int64_t i = begin; i < end; ++i) {
          dx[i] = fake_quant_grad<rounding(), overflow()>(dy[i], in[i], scale, args.range);
        }
      };
      for_each_run(args.layout, static_cast<const int32_t*>(frac.const_data_ptr()), run);
    });
  }
};

}  // namespace
}  // namespace yhw

STABLE_TORCH_LIBRARY_IMPL(yolo_hw, CPU, m) {
  m.impl("fake_quant_pow2", TORCH_BOX(&yhw::fake_quant_pow2<yhw::Cpu>));
  m.impl("fake_quant_pow2_backward", TORCH_BOX(&yhw::fake_quant_pow2_backward<yhw::Cpu>));
}
