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

// Narrows with saturation, two pixels at a time.
class Packer256 {
 public:
  explicit Packer256(const ByteSink& sink)
      : sink_(sink),
        lo_(_mm256_set1_epi8(static_cast<char>(sink.lo))),
        hi_(_mm256_set1_epi8(static_cast<char>(sink.hi))),
        zero_(_mm256_set1_epi16(sink.zero)),
        rebase_(_mm256_set1_epi8(static_cast<char>(sink.rebase))) {}

  YHW_INLINE void store(const Vec* shifted, int pixels, uint8_t* to) const {
    for (int p = 0; p < pixels; p += 2) {
      const __m256i words = _mm256_packus_epi16(words_of(shifted[p]), words_of(shifted[p + 1]));
      const __m256i stored = _mm256_add_epi8(_mm256_min_epu8(_mm256_max_epu8(words, lo_), hi_), rebase_);
      const __m256i ordered = _mm256_permutevar8x32_epi32(stored, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
      store_pixel(_mm256_castsi256_si128(ordered), to + p * sink_.spacing);
      if (p + 1 < pixels) {
        store_pixel(_mm256_extracti128_si256(ordered, 1), to + (p + 1) * sink_.spacing);
      }
    }
  }

 private:
  // Lanes 0-3, 8-11, 4-7, 12-15.
  YHW_INLINE __m256i words_of(Vec shifted) const {
    __m256i halves[2];
    std::memcpy(halves, &shifted, sizeof(halves));
    return _mm256_adds_epi16(_mm256_packs_epi32(halves[0], halves[1]), zero_);
  }
  YHW_INLINE void store_pixel(__m128i bytes, uint8_t* to) const {
    if (sink_.table != nullptr) {
      uint8_t looked_up[kLanes];
      std::memcpy(looked_up, &bytes, sizeof(looked_up));
      look_up(sink_.table, looked_up);
      std::memcpy(&bytes, looked_up, sizeof(bytes));
    }
    if (sink_.count == kLanes) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
    } else {
      std::memcpy(to, &bytes, static_cast<size_t>(sink_.count));
    }
  }

  ByteSink sink_;
  __m256i lo_, hi_, zero_, rebase_;
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
