// SPDX-License-Identifier: Apache-2.0
// Sparse kernels of 8-bit codes for AVX-VNNI, called only where the processor has it (isa.h).
#include "moves256.h"

namespace yhw {
namespace sparse {
namespace {

struct Product {
  static YHW_INLINE __m256i add(__m256i sum, __m256i codes, __m256i weights) {
    return _mm256_dpbusd_avx_epi32(sum, codes, weights);
  }
};

}  // namespace

Kernels<int32_t> avxvnni_kernels_quads() { return make_kernels_with_regions<Quads256<Product>>(); }

}  // namespace sparse
}  // namespace yhw
