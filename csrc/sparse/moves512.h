// SPDX-License-Identifier: Apache-2.0
// Moves of 32-bit elements by AVX-512 instructions. Included by sources for AVX-512 only.
#ifndef YHW_SPARSE_MOVES512_H_
#define YHW_SPARSE_MOVES512_H_

#include <immintrin.h>

#include "regions_impl.h"

namespace yhw {
namespace sparse {
namespace {

YHW_INLINE __m512i bits_of(__m512 v) { return _mm512_castps_si512(v); }
YHW_INLINE __m512i bits_of(__m512i v) { return v; }
YHW_INLINE void set_bits(__m512& to, __m512i v) { to = _mm512_castsi512_ps(v); }
YHW_INLINE void set_bits(__m512i& to, __m512i v) { to = v; }

// A tap of a channel is looked up in a register, 32 of them at once.
inline int64_t place_taps512(const TileTaps& t, uint16_t* places, bool* good) {
  constexpr int kAtOnce = 32;
  alignas(64) uint16_t entries[kPlacedTaps] = {};
  std::memcpy(entries, t.of_tap, static_cast<size_t>(t.codes) * sizeof(uint16_t));
  const __m512i table = _mm512_load_si512(entries), codes = _mm512_set1_epi16(static_cast<int16_t>(t.codes - 1));
  const int64_t stop = t.channels * t.codes, most = (stop < 0x10000 ? stop : 0x10000) - 1;
  const __m512i last = _mm512_set1_epi16(static_cast<int16_t>(most)), none = _mm512_set1_epi16(-1);
  const __m512i per_channel = _mm512_set1_epi16(static_cast<int16_t>(t.per_channel));
  const __m128i bits = _mm_cvtsi32_si128(tap_bits(t.codes));
  __mmask32 bad = 0;
  int64_t i = 0;
  for (; i + kAtOnce <= t.count; i += kAtOnce) {
    const __m512i tap = _mm512_loadu_si512(t.taps + i);
    const __m512i in_channel = _mm512_permutexvar_epi16(_mm512_and_si512(tap, codes), table);
    const __m512i channel = _mm512_srl_epi16(tap, bits);
    bad |= _mm512_cmpgt_epu16_mask(tap, last) | _mm512_cmpeq_epi16_mask(in_channel, none);
    _mm512_storeu_si512(places + i, _mm512_add_epi16(_mm512_mullo_epi16(channel, per_channel), in_channel));
  }
  *good &= bad == 0;
  return i;
}

// T: float or int32_t.
template <typename T>
struct Moves512 {
  using Element = T;
  static constexpr int kLanes = 16;
  static constexpr int kMaxRows = 14;
  static constexpr bool kRuns = true;
  // GCC 12 warns of uninitialised values in its own instructions without a mask.
  static constexpr __mmask16 kAll = 0xffff;
  static constexpr __mmask8 kAllPairs = 0xff;

  // 32 registers: the sums, the input vectors (from memory for one channel) and a weight.
  static constexpr int max_rows(int channels) { return channels == 4 ? 7 : 14; }

  static constexpr auto kPlaceTaps = place_taps512;

  // For regions: the sums, a vector of weights and a pixel.
  static constexpr int kPixels = 28;
  static constexpr bool kSpreads = true;

  // from: 16 rows of 16 elements, `step` apart -> to: the same by columns.
  template <typename Vector>
  static YHW_INLINE void transpose(Vector (&to)[16], const T* from, int64_t step) {
    __m512i v[16];
    YHW_UNROLL for (int i = 0; i < 16; ++i) { v[i] = _mm512_load_si512(from + i * step); }
    transpose_square(v);
    YHW_UNROLL for (int i = 0; i < 16; ++i) { set_bits(to[i], v[i]); }
  }

  // The same of rows in registers.
  static YHW_INLINE void transpose_square(__m512i (&v)[16]) {
    __m512i u[16];
    // Squares of 4x4 within quarters, then the quarters.
    YHW_UNROLL for (int i = 0; i < 16; i += 4) {
      const __m512i a = _mm512_maskz_unpacklo_epi32(kAll, v[i], v[i + 1]),
                    b = _mm512_maskz_unpackhi_epi32(kAll, v[i], v[i + 1]);
      const __m512i c = _mm512_maskz_unpacklo_epi32(kAll, v[i + 2], v[i + 3]),
                    d = _mm512_maskz_unpackhi_epi32(kAll, v[i + 2], v[i + 3]);
      u[i] = _mm512_maskz_unpacklo_epi64(kAllPairs, a, c);
      u[i + 1] = _mm512_maskz_unpackhi_epi64(kAllPairs, a, c);
      u[i + 2] = _mm512_maskz_unpacklo_epi64(kAllPairs, b, d);
      u[i + 3] = _mm512_maskz_unpackhi_epi64(kAllPairs, b, d);
    }
    YHW_UNROLL for (int i = 0; i < 4; ++i) {
      const __m512i a = _mm512_maskz_shuffle_i32x4(kAll, u[i], u[i + 4], 0x88),
                    b = _mm512_maskz_shuffle_i32x4(kAll, u[i], u[i + 4], 0xdd);
      const __m512i c = _mm512_maskz_shuffle_i32x4(kAll, u[i + 8], u[i + 12], 0x88);
      const __m512i d = _mm512_maskz_shuffle_i32x4(kAll, u[i + 8], u[i + 12], 0xdd);
      v[i] = _mm512_maskz_shuffle_i32x4(kAll, a, c, 0x88);
      v[i + 4] = _mm512_maskz_shuffle_i32x4(kAll, b, d, 0x88);
      v[i + 8] = _mm512_maskz_shuffle_i32x4(kAll, a, c, 0xdd);
      v[i + 12] = _mm512_maskz_shuffle_i32x4(kAll, b, d, 0xdd);
    }
  }

  template <typename Vector>
  static YHW_INLINE void store_lanes(T* p, Vector v, uint32_t mask) {
    _mm512_mask_storeu_epi32(p, static_cast<__mmask16>(mask), bits_of(v));
  }
  static YHW_INLINE void prefetch(const T* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }

  template <int Strip>
  static YHW_INLINE void copy_in(T* to, const T* from, uint32_t mask, int64_t stride, T outside) {
    static_assert(Strip == 16 || Strip == 8 || Strip == 4, "strips are 64, 32 or 16 bytes wide");
    const __m512i rest = _mm512_set1_epi32(static_cast<int32_t>(outside));
    const __mmask16 lanes = static_cast<__mmask16>(mask);
    if (stride != 1) {
      const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
      const __m512i index = _mm512_mullo_epi32(lane, _mm512_set1_epi32(static_cast<int>(stride)));
      const __m512i v = _mm512_mask_i32gather_epi32(rest, lanes, index, from, 4);
      _mm512_mask_storeu_epi32(to, static_cast<__mmask16>((1u << Strip) - 1u), v);
    } else if (Strip == 16) {
      _mm512_store_si512(to, _mm512_mask_loadu_epi32(rest, lanes, from));
    } else if (Strip == 8) {
      const __m256i v =
          _mm256_mask_loadu_epi32(_mm256_set1_epi32(static_cast<int32_t>(outside)), static_cast<__mmask8>(mask), from);
      _mm256_store_si256(reinterpret_cast<__m256i*>(to), v);
    } else {
      const __m128i v =
          _mm_mask_loadu_epi32(_mm_set1_epi32(static_cast<int32_t>(outside)), static_cast<__mmask8>(mask), from);
      _mm_store_si128(reinterpret_cast<__m128i*>(to), v);
    }
  }

  // For runs: the first `vectors` vectors of 16 windows of a map, a window to a lane.
  static YHW_INLINE void take_windows(T* to, int vectors, const T* from, const Copy* windows, T outside) {
    const __m512i rest = _mm512_set1_epi32(static_cast<int32_t>(outside));
    __m512i v[16];
    YHW_UNROLL for (int i = 0; i < 16; ++i) {
      const __m512i inside = _mm512_maskz_loadu_epi32(dense_lanes(windows[i].mask), from + windows[i].map);
      v[i] = _mm512_mask_expand_epi32(rest, static_cast<__mmask16>(windows[i].mask), inside);
    }
    transpose_square(v);
    YHW_UNROLL for (int i = 0; i < 16; ++i) {
      if (i < vectors) {
        _mm512_store_si512(to + i * 16, v[i]);
      }
    }
  }

  // The reverse; windows' lanes past `vectors` do not exist.
  static YHW_INLINE void put_windows(T* to, const Copy* windows, const T* from, int vectors) {
    __m512i v[16];
    YHW_UNROLL for (int i = 0; i < 16; ++i) { v[i] = _mm512_load_si512(from + (i < vectors ? i : 0) * 16); }
    transpose_square(v);
    YHW_UNROLL for (int i = 0; i < 16; ++i) {
      const __m512i inside = _mm512_maskz_compress_epi32(static_cast<__mmask16>(windows[i].mask), v[i]);
      _mm512_mask_storeu_epi32(to + windows[i].map, dense_lanes(windows[i].mask), inside);
    }
  }

  // As many lanes from the first.
  static YHW_INLINE __mmask16 dense_lanes(uint32_t mask) {
    return static_cast<__mmask16>((uint32_t{1} << __builtin_popcount(mask)) - 1);
  }

  template <int Strip>
  static YHW_INLINE void copy_out(T* to, const T* from, uint32_t mask) {
    const __mmask16 lanes = static_cast<__mmask16>(mask);
    if (Strip == 16) {
      _mm512_mask_storeu_epi32(to, lanes, _mm512_load_si512(from));
    } else if (Strip == 8) {
      const __m256i v = _mm256_load_si256(reinterpret_cast<const __m256i*>(from));
      _mm256_mask_storeu_epi32(to, static_cast<__mmask8>(lanes), v);
    } else {
      const __m128i v = _mm_load_si128(reinterpret_cast<const __m128i*>(from));
      _mm_mask_storeu_epi32(to, static_cast<__mmask8>(lanes), v);
    }
  }
};

}  // namespace
}  // namespace sparse
}  // namespace yhw

#endif  // YHW_SPARSE_MOVES512_H_
