// SPDX-License-Identifier: Apache-2.0
// Sparse kernels for AVX2 and FMA, called only where the processor has them (isa.h).
#include <immintrin.h>

#include "kernels_impl.h"

namespace yhw {
namespace sparse {
namespace {

struct AvxIsa {
  using Real = float;
  using Vector = __m256;
  static constexpr int kLanes = 8;
  static constexpr int kMaxRows = 14;

  // 16 registers: the sums, the input vectors (from memory for one channel) and a weight.
  static constexpr int max_rows(int channels) { return channels == 4 ? 3 : channels == 2 ? 6 : 14; }

  static YHW_INLINE Vector load(const float* p) { return _mm256_load_ps(p); }
  static YHW_INLINE void store(float* p, Vector v) { _mm256_store_ps(p, v); }
  static YHW_INLINE void store_lanes(float* p, Vector v, uint32_t mask) {
    if (mask == 0xff) {  // masked stores are slow on some processors
      _mm256_storeu_ps(p, v);
    } else {
      _mm256_maskstore_ps(p, wide(mask), v);
    }
  }
  static YHW_INLINE Vector broadcast(float v) { return _mm256_set1_ps(v); }
  static YHW_INLINE Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
  static YHW_INLINE Vector maximum(Vector a, Vector b) { return _mm256_max_ps(a, b); }
  static YHW_INLINE Vector minimum(Vector a, Vector b) { return _mm256_min_ps(a, b); }
  static YHW_INLINE Vector leaky(Vector v, Vector slope) {
    return _mm256_blendv_ps(_mm256_mul_ps(v, slope), v, _mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_GT_OQ));
  }
  static YHW_INLINE void prefetch(const float* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }

  // All bits of lane l where bit l of the mask is set.
  static YHW_INLINE __m256i wide(uint32_t mask) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(mask)), bit), bit);
  }

  template <int Strip>
  static YHW_INLINE void copy_in(float* to, const float* from, uint32_t mask, int64_t stride) {
    static_assert(Strip == 8 || Strip == 4, "strips are 32 or 16 bytes wide");
    const __m256i lanes = wide(mask);
    __m256 v;
    if (stride != 1) {
      const __m256i index =
          _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(static_cast<int>(stride)));
      v = _mm256_mask_i32gather_ps(_mm256_setzero_ps(), from, index, _mm256_castsi256_ps(lanes), 4);
    } else {
      v = _mm256_maskload_ps(from, lanes);
    }
    if (Strip == 8) {
      _mm256_store_ps(to, v);
    } else {
      _mm_store_ps(to, _mm256_castps256_ps128(v));
    }
  }

  template <int Strip>
  static YHW_INLINE void copy_out(float* to, const float* from, uint32_t mask) {
    constexpr uint32_t kAll = (1u << Strip) - 1u;
    if (mask == kAll) {  // masked stores are slow on some processors
      Strip == 8 ? _mm256_storeu_ps(to, _mm256_load_ps(from)) : _mm_storeu_ps(to, _mm_load_ps(from));
    } else {
      const __m256 v = Strip == 8 ? _mm256_load_ps(from) : _mm256_castps128_ps256(_mm_load_ps(from));
      _mm256_maskstore_ps(to, wide(mask), v);
    }
  }
};

}  // namespace

Kernels<float> avx2_kernels() { return make_kernels<AvxIsa>(); }

}  // namespace sparse
}  // namespace yhw
