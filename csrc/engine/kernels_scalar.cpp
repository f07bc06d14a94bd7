// SPDX-License-Identifier: Apache-2.0
// Kernels for any machine, compiled with the compiler's baseline instruction set.
#include "kernels_impl.h"

namespace yhw {
namespace {

struct ScalarIsa {
  static constexpr const char* kName = "scalar";
  static constexpr int kPixels = 4;

  template <typename Acc>
  static void accumulate(const Code* weights, int pairs, const Code* x, int64_t step, int pixels, Acc* acc,
                         int acc_stride) {
    for (int p = 0; p < pixels; ++p) {
      const Code* in = x + p * step;
      Acc* out = acc + static_cast<int64_t>(p) * acc_stride;
      for (int i = 0; i < pairs; ++i) {
        const Code* w = weights + i * kLanes * 2;
        const Acc even = in[2 * i], odd = in[2 * i + 1];
        for (int k = 0; k < kLanes; ++k) {
          out[k] += even * w[2 * k] + odd * w[2 * k + 1];
        }
      }
    }
  }
};

}  // namespace

const Kernels& scalar_kernels() { return make_kernels<ScalarIsa>(); }

}  // namespace yhw
