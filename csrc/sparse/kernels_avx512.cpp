// SPDX-License-Identifier: Apache-2.0
// Sparse kernels for AVX-512, called only where the processor has it (isa.h).
#include "moves512.h"

namespace yhw {
namespace sparse {
namespace {

struct FloatIsa : Moves512<float> {
  using Vector = __m512;
  static YHW_INLINE Vector load(const float* p) { return _mm512_load_ps(p); }
  static YHW_INLINE Vector load_unaligned(const float* p) { return _mm512_loadu_ps(p); }
  // Opaque, or the compiler makes a load of every element of it again.
  static YHW_INLINE Vector broadcast_four(const float* p) {
    Vector four = _mm512_maskz_broadcast_f32x4(kAll, _mm_loadu_ps(p));
    asm("" : "+v"(four));
    return four;
  }
  static YHW_INLINE Vector spread(Vector four, int i) {
    switch (i) {
      case 0:
        return _mm512_maskz_permute_ps(kAll, four, 0x00);
      case 1:
        return _mm512_maskz_permute_ps(kAll, four, 0x55);
      case 2:
        return _mm512_maskz_permute_ps(kAll, four, 0xaa);
      default:
        return _mm512_maskz_permute_ps(kAll, four, 0xff);
    }
  }
  static YHW_INLINE void store(float* p, Vector v) { _mm512_store_ps(p, v); }
  static YHW_INLINE Vector broadcast(float v) { return _mm512_set1_ps(v); }
  static YHW_INLINE Vector fma(Vector weight, Vector x, Vector sum) { return _mm512_fmadd_ps(weight, x, sum); }
  static YHW_INLINE Vector maximum(Vector a, Vector b) { return _mm512_maskz_max_ps(kAll, a, b); }
  static YHW_INLINE Vector minimum(Vector a, Vector b) { return _mm512_maskz_min_ps(kAll, a, b); }
  static YHW_INLINE Vector leaky(Vector v, Vector slope) {
    const __mmask16 positive = _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_GT_OQ);
    return _mm512_mask_mov_ps(_mm512_mul_ps(v, slope), positive, v);
  }
};

}  // namespace

Kernels<float> avx512_kernels() { return make_kernels_with_regions<FloatIsa>(); }

}  // namespace sparse
}  // namespace yhw
