// SPDX-License-Identifier: Apache-2.0
// What the dot products on 256-bit registers share: two registers hold the accumulators of kLanes output channels.
// Included by kernels_avx2.cpp and kernels_avxvnni.cpp.
#ifndef YHW_ENGINE_DOT256_H_
#define YHW_ENGINE_DOT256_H_

#include <immintrin.h>

#include "kernels_impl.h"

namespace yhw {
namespace {

struct Pair256 {
  __m256i low, high;
};

struct Dot256 {
  using Acc = Pair256;
  using Weights = const __m256i*;
  static constexpr int kWeightBytes = 64;

  static YHW_INLINE Pair256 load(const int32_t* from) {
    const auto* at = reinterpret_cast<const __m256i*>(from);
    return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
  }
  static YHW_INLINE void store(int32_t* to, const Pair256& acc) {
    auto* at = reinterpret_cast<__m256i*>(to);
    _mm256_storeu_si256(at, acc.low);
    _mm256_storeu_si256(at + 1, acc.high);
  }
  static YHW_INLINE const __m256i* weights(const uint8_t* from) { return reinterpret_cast<const __m256i*>(from); }
  static YHW_INLINE __m256i input(const uint8_t* from) {
    int32_t step;
    std::memcpy(&step, from, sizeof(step));
    return _mm256_set1_epi32(step);
  }
};

}  // namespace
}  // namespace yhw

#endif  // YHW_ENGINE_DOT256_H_
