// SPDX-License-Identifier: Apache-2.0
// Sparse kernels for AVX-512, called only where the processor has it (isa.h).
#include <immintrin.h>

#include "kernels_impl.h"

namespace yhw {
namespace sparse {
namespace {

struct AvxIsa {
  using Real = float;
  using Vector = __m512;
  static constexpr int kLanes = 16;
  static constexpr int kMaxRows = 14;
  static constexpr __mmask16 kAll = 0xffff;

  // 32 registers: the sums, the input vectors (from memory for one channel) and a weight.
  static constexpr int max_rows(int channels) { return channels == 4 ? 7 : 14; }

  static YHW_INLINE Vector load(const float* p) { return _mm512_load_ps(p); }
  static YHW_INLINE void store(float* p, Vector v) { _mm512_store_ps(p, v); }
  static YHW_INLINE void store_lanes(float* p, Vector v, uint32_t mask) {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>(mask), v);
  }
  static YHW_INLINE Vector broadcast(float v) { return _mm512_set1_ps(v); }
  static YHW_INLINE Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
  // With a mask of all lanes: GCC 12 warns of an uninitialised value in its own _mm512_max_ps.
  static YHW_INLINE Vector maximum(Vector a, Vector b) { return _mm512_maskz_max_ps(kAll, a, b); }
  static YHW_INLINE Vector minimum(Vector a, Vector b) { return _mm512_maskz_min_ps(kAll, a, b); }
  static YHW_INLINE Vector leaky(Vector v, Vector slope) {
    const __mmask16 positive = _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_GT_OQ);
    return _mm512_mask_mov_ps(_mm512_mul_ps(v, slope), positive, v);
  }
  static YHW_INLINE void prefetch(const float* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }

  template <int Strip>
  static YHW_INLINE void copy_in(float* to, const float* from, uint32_t mask, int64_t stride) {
    static_assert(Strip == 16 || Strip == 8 || Strip == 4, "strips are 64, 32 or 16 bytes wide");
    if (stride != 1) {
      const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
      const __m512i index = _mm512_mullo_epi32(lane, _mm512_set1_epi32(static_cast<int>(stride)));
      const __mmask16 lanes = static_cast<__mmask16>(mask);
      const __m512 v = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), lanes, index, from, 4);
      _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << Strip) - 1u), v);
    } else if (Strip == 16) {
      _mm512_store_ps(to, _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), from));
    } else if (Strip == 8) {
      _mm256_store_ps(to, _mm256_maskz_loadu_ps(static_cast<__mmask8>(mask), from));
    } else {
      _mm_store_ps(to, _mm_maskz_loadu_ps(static_cast<__mmask8>(mask), from));
    }
  }

  template <int Strip>
  static YHW_INLINE void copy_out(float* to, const float* from, uint32_t mask) {
    if (Strip == 16) {
      _mm512_mask_storeu_ps(to, static_cast<__mmask16>(mask), _mm512_load_ps(from));
    } else if (Strip == 8) {
      _mm256_mask_storeu_ps(to, static_cast<__mmask8>(mask), _mm256_load_ps(from));
    } else {
      _mm_mask_storeu_ps(to, static_cast<__mmask8>(mask), _mm_load_ps(from));
    }
  }
};

}  // namespace

Kernels<float> avx512_kernels() { return make_kernels<AvxIsa>(); }

}  // namespace sparse
}  // namespace yhw
