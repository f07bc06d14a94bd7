// SPDX-License-Identifier: Apache-2.0
// Sparse kernels of 8-bit codes for AVX-512 with VNNI, called only where the processor has it (isa.h).
#include "moves512.h"

namespace yhw {
namespace sparse {
namespace {

struct QuadIsa : Moves512<int32_t> {
  using Vector = __m512i;

  static YHW_INLINE Vector load(const int32_t* p) { return _mm512_load_si512(p); }
  static YHW_INLINE Vector load_unaligned(const int32_t* p) { return _mm512_loadu_si512(p); }
  // Opaque, or the compiler makes a load of every element of it again.
  static YHW_INLINE Vector broadcast_four(const int32_t* p) {
    Vector four = _mm512_maskz_broadcast_i32x4(kAll, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    asm("" : "+v"(four));
    return four;
  }
  static YHW_INLINE Vector spread(Vector four, int i) {
    switch (i) {
      case 0:
        return _mm512_maskz_shuffle_epi32(kAll, four, static_cast<_MM_PERM_ENUM>(0x00));
      case 1:
        return _mm512_maskz_shuffle_epi32(kAll, four, static_cast<_MM_PERM_ENUM>(0x55));
      case 2:
        return _mm512_maskz_shuffle_epi32(kAll, four, static_cast<_MM_PERM_ENUM>(0xaa));
      default:
        return _mm512_maskz_shuffle_epi32(kAll, four, static_cast<_MM_PERM_ENUM>(0xff));
    }
  }
  static YHW_INLINE void store(int32_t* p, Vector v) { _mm512_store_si512(p, v); }
  static YHW_INLINE Vector broadcast(int32_t v) { return _mm512_set1_epi32(v); }
  static YHW_INLINE Vector fma(Vector weight, Vector x, Vector sum) { return _mm512_dpbusd_epi32(sum, x, weight); }
};

}  // namespace

Kernels<int32_t> avx512vnni_kernels_quads() { return make_kernels_with_regions<QuadIsa>(); }

}  // namespace sparse
}  // namespace yhw
