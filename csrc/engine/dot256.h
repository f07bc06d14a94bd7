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

// Bytes of up to 4 rows of taps side by side in each of kLanes lanes.
struct Columns256 {
  template <int kRows>
  static YHW_INLINE Pair256 load(const uint8_t* const* rows, int64_t at) {
    const auto row = [&](int r) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[r] + at)); };
    if constexpr (kRows == 1) {
      const __m128i bytes = row(0);
      return {_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))};
    } else {
      const __m128i zero = _mm_setzero_si128(), third = kRows > 2 ? row(2) : zero, fourth = kRows > 3 ? row(3) : zero;
      const __m128i low = _mm_unpacklo_epi8(row(0), row(1)), high = _mm_unpackhi_epi8(row(0), row(1));
      const __m128i low_rest = _mm_unpacklo_epi8(third, fourth), high_rest = _mm_unpackhi_epi8(third, fourth);
      return {_mm256_set_m128i(_mm_unpackhi_epi16(low, low_rest), _mm_unpacklo_epi16(low, low_rest)),
              _mm256_set_m128i(_mm_unpackhi_epi16(high, high_rest), _mm_unpacklo_epi16(high, high_rest))};
    }
  }
};

}  // namespace
}  // namespace yhw

#endif  // YHW_ENGINE_DOT256_H_
