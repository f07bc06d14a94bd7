// SPDX-License-Identifier: Apache-2.0
// Kernels for AVX2, compiled with -mavx2 and called only where the processor has it.
#include <immintrin.h>

#include "kernels_impl.h"

namespace yhw {
namespace {

struct Avx2Isa {
  static constexpr const char* kName = "avx2";
  static constexpr int kPixels = 4;

  // vpmaddwd multiplies 16 int16 pairs and adds neighbours in int32: two channels of 8 output channels. It is exact, as
  // the pair sum stays below 2^31 wherever the accumulator does (the sum of two products overflows only for
  // (-2^15)^2 + (-2^15)^2, which the accumulator bound excludes).
  static void accumulate(const Code* weights, int pairs, const Code* x, int64_t step, int pixels, int32_t* acc,
                         int acc_stride) {
    if (pixels == kPixels) {
      tile<kPixels>(weights, pairs, x, step, acc, acc_stride);
    } else {
      for (int p = 0; p < pixels; ++p) {
        tile<1>(weights, pairs, x + p * step, step, acc + static_cast<int64_t>(p) * acc_stride, acc_stride);
      }
    }
  }

  // Wide accumulators: the products of 16-bit codes are widened before the sum.
  static void accumulate(const Code* weights, int pairs, const Code* x, int64_t step, int pixels, int64_t* acc,
                         int acc_stride) {
    for (int p = 0; p < pixels; ++p) {
      const Code* in = x + p * step;
      int64_t* out = acc + static_cast<int64_t>(p) * acc_stride;
      for (int i = 0; i < pairs; ++i) {
        const Code* w = weights + i * kLanes * 2;
        const int32_t even = in[2 * i], odd = in[2 * i + 1];
        for (int k = 0; k < kLanes; ++k) {
          out[k] += static_cast<int64_t>(even * w[2 * k]) + odd * w[2 * k + 1];
        }
      }
    }
  }

 private:
  template <int kCount>
  static void tile(const Code* weights, int pairs, const Code* x, int64_t step, int32_t* acc, int acc_stride) {
    __m256i sum[kCount][2];
    for (int p = 0; p < kCount; ++p) {
      const auto* from = reinterpret_cast<const __m256i*>(acc + static_cast<int64_t>(p) * acc_stride);
      sum[p][0] = _mm256_loadu_si256(from);
      sum[p][1] = _mm256_loadu_si256(from + 1);
    }
    for (int i = 0; i < pairs; ++i) {
      const auto* w = reinterpret_cast<const __m256i*>(weights + static_cast<int64_t>(i) * kLanes * 2);
      const __m256i low = _mm256_loadu_si256(w), high = _mm256_loadu_si256(w + 1);
      for (int p = 0; p < kCount; ++p) {
        int32_t pair;
        std::memcpy(&pair, x + p * step + 2 * i, sizeof(pair));
        const __m256i in = _mm256_set1_epi32(pair);
        sum[p][0] = _mm256_add_epi32(sum[p][0], _mm256_madd_epi16(low, in));
        sum[p][1] = _mm256_add_epi32(sum[p][1], _mm256_madd_epi16(high, in));
      }
    }
    for (int p = 0; p < kCount; ++p) {
      auto* to = reinterpret_cast<__m256i*>(acc + static_cast<int64_t>(p) * acc_stride);
      _mm256_storeu_si256(to, sum[p][0]);
      _mm256_storeu_si256(to + 1, sum[p][1]);
    }
  }
};

}  // namespace

const Kernels& avx2_kernels() { return make_kernels<Avx2Isa>(); }

}  // namespace yhw
