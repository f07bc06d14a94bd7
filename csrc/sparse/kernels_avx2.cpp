// SPDX-License-Identifier: Apache-2.0
// Sparse kernels for AVX2 and FMA, called only where the processor has them (isa.h).
#include "moves256.h"

namespace yhw {
namespace sparse {
namespace {

struct FloatIsa : Moves256<float> {
  using Vector = __m256;

  // 16 registers: the sums, the input vectors (from memory for one channel) and a weight.
  static constexpr int max_rows(int channels) { return channels == 4 ? 3 : channels == 2 ? 6 : 14; }

  static YHW_INLINE Vector load(const float* p) { return _mm256_load_ps(p); }
  static YHW_INLINE Vector load_unaligned(const float* p) { return _mm256_loadu_ps(p); }
  static YHW_INLINE void store(float* p, Vector v) { _mm256_store_ps(p, v); }
  static YHW_INLINE Vector broadcast(float v) { return _mm256_set1_ps(v); }
  static YHW_INLINE Vector fma(Vector weight, Vector x, Vector sum) { return _mm256_fmadd_ps(weight, x, sum); }
  static YHW_INLINE Vector maximum(Vector a, Vector b) { return _mm256_max_ps(a, b); }
  static YHW_INLINE Vector minimum(Vector a, Vector b) { return _mm256_min_ps(a, b); }
  static YHW_INLINE Vector leaky(Vector v, Vector slope) {
    return _mm256_blendv_ps(_mm256_mul_ps(v, slope), v, _mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_GT_OQ));
  }
};

// vpmaddubsw would saturate, so bytes are widened to 16 bits: the even ones, then the odd ones.
struct Product {
  static YHW_INLINE __m256i add(__m256i sum, __m256i codes, __m256i weights) {
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256(codes, _mm256_set1_epi16(0xff)),
                                           _mm256_srai_epi16(_mm256_slli_epi16(weights, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(codes, 8), _mm256_srai_epi16(weights, 8));
    return _mm256_add_epi32(_mm256_add_epi32(sum, even), odd);
  }
};

}  // namespace

Kernels<float> avx2_kernels() { return make_kernels_with_regions<FloatIsa>(); }
Kernels<int32_t> avx2_kernels_quads() { return make_kernels_with_regions<Quads256<Product>>(); }

}  // namespace sparse
}  // namespace yhw
