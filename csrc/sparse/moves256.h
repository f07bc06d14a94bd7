// SPDX-License-Identifier: Apache-2.0
// Moves of 32-bit elements by AVX2 instructions. Included by sources for AVX2 only.
#ifndef YHW_SPARSE_MOVES256_H_
#define YHW_SPARSE_MOVES256_H_

#include <immintrin.h>

#include "regions_impl.h"

namespace yhw {
namespace sparse {
namespace {

YHW_INLINE __m256i bits_of(__m256 v) { return _mm256_castps_si256(v); }
YHW_INLINE __m256i bits_of(__m256i v) { return v; }
YHW_INLINE void set_bits(__m256& to, __m256i v) { to = _mm256_castsi256_ps(v); }
YHW_INLINE void set_bits(__m256i& to, __m256i v) { to = v; }

// T: float or int32_t.
template <typename T>
struct Moves256 {
  using Element = T;
  static constexpr int kLanes = 8;
  static constexpr decltype(Kernels<T>::place_taps) kPlaceTaps = nullptr;
  static constexpr int kMaxRows = 14;
  static constexpr bool kRuns = false;

  // For regions: two vectors of sums of each, two of weights, and a pixel.
  static constexpr int kPixels = 6;
  static constexpr bool kSpreads = false;  // a pixel serves two vectors

  // from: 8 rows of 8 elements, `step` apart -> to: the same by columns.
  template <typename Vector>
  static YHW_INLINE void transpose(Vector (&to)[8], const T* from, int64_t step) {
    __m256i u[8];
    YHW_UNROLL for (int i = 0; i < 8; i += 4) {
      __m256i v[4];
      YHW_UNROLL for (int j = 0; j < 4; ++j) {
        v[j] = _mm256_load_si256(reinterpret_cast<const __m256i*>(from + (i + j) * step));
      }
      const __m256i a = _mm256_unpacklo_epi32(v[0], v[1]), b = _mm256_unpackhi_epi32(v[0], v[1]);
      const __m256i c = _mm256_unpacklo_epi32(v[2], v[3]), d = _mm256_unpackhi_epi32(v[2], v[3]);
      u[i] = _mm256_unpacklo_epi64(a, c);
      u[i + 1] = _mm256_unpackhi_epi64(a, c);
      u[i + 2] = _mm256_unpacklo_epi64(b, d);
      u[i + 3] = _mm256_unpackhi_epi64(b, d);
    }
    YHW_UNROLL for (int i = 0; i < 4; ++i) {
      set_bits(to[i], _mm256_permute2x128_si256(u[i], u[i + 4], 0x20));
      set_bits(to[i + 4], _mm256_permute2x128_si256(u[i], u[i + 4], 0x31));
    }
  }

  template <typename Vector>
  static YHW_INLINE void store_lanes(T* p, Vector v, uint32_t mask) {
    if (mask == 0xff) {  // masked stores are slow on some processors
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bits_of(v));
    } else {
      _mm256_maskstore_epi32(words(p), wide(mask), bits_of(v));
    }
  }
  static YHW_INLINE void prefetch(const T* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }

  template <int Strip>
  static YHW_INLINE void copy_in(T* to, const T* from, uint32_t mask, int64_t stride, T outside) {
    static_assert(Strip == 8 || Strip == 4, "strips are 32 or 16 bytes wide");
    const __m256i lanes = wide(mask);
    __m256i v;
    if (stride != 1) {
      const __m256i index =
          _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(static_cast<int>(stride)));
      v = _mm256_mask_i32gather_epi32(_mm256_setzero_si256(), words(from), index, lanes, 4);
    } else {
      v = _mm256_maskload_epi32(words(from), lanes);
    }
    if (outside != 0) {
      v = _mm256_blendv_epi8(_mm256_set1_epi32(static_cast<int32_t>(outside)), v, lanes);
    }
    if (Strip == 8) {
      _mm256_store_si256(reinterpret_cast<__m256i*>(to), v);
    } else {
      _mm_store_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(v));
    }
  }

  template <int Strip>
  static YHW_INLINE void copy_out(T* to, const T* from, uint32_t mask) {
    constexpr uint32_t kAll = (1u << Strip) - 1u;
    const __m256i v = Strip == 8 ? _mm256_load_si256(reinterpret_cast<const __m256i*>(from))
                                 : _mm256_castsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(from)));
    if (mask != kAll) {  // masked stores are slow on some processors
      _mm256_maskstore_epi32(words(to), wide(mask), v);
    } else if (Strip == 8) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), v);
    } else {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(v));
    }
  }

 private:
  static YHW_INLINE int* words(T* p) { return reinterpret_cast<int*>(p); }
  static YHW_INLINE const int* words(const T* p) { return reinterpret_cast<const int*>(p); }
  // All bits of lane l where bit l of the mask is set.
  static YHW_INLINE __m256i wide(uint32_t mask) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(mask)), bit), bit);
  }
};

// Quads on 256 bits; `Product` has the instruction: add(sum, codes, weights).
template <class Product>
struct Quads256 : Moves256<int32_t> {
  using Vector = __m256i;

  // 16 registers, as for floats.
  static constexpr int max_rows(int channels) { return channels == 4 ? 3 : channels == 2 ? 6 : 14; }

  static YHW_INLINE Vector load(const int32_t* p) { return _mm256_load_si256(reinterpret_cast<const Vector*>(p)); }
  static YHW_INLINE Vector load_unaligned(const int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const Vector*>(p));
  }
  static YHW_INLINE void store(int32_t* p, Vector v) { _mm256_store_si256(reinterpret_cast<Vector*>(p), v); }
  static YHW_INLINE Vector broadcast(int32_t v) { return _mm256_set1_epi32(v); }
  static YHW_INLINE Vector fma(Vector weight, Vector x, Vector sum) { return Product::add(sum, x, weight); }
};

}  // namespace
}  // namespace sparse
}  // namespace yhw

#endif  // YHW_SPARSE_MOVES256_H_
