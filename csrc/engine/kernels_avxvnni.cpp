// SPDX-License-Identifier: Apache-2.0
// Kernels for AVX2 with the VNNI instructions on 256-bit registers, called only where the processor has them.
#include "dot256.h"

namespace yhw {
namespace {

struct Bytes256 : Dot256 {
  static YHW_INLINE void add(Pair256& acc, __m256i x, const __m256i* w) {
    acc.low = _mm256_dpbusd_avx_epi32(acc.low, x, _mm256_loadu_si256(w));
    acc.high = _mm256_dpbusd_avx_epi32(acc.high, x, _mm256_loadu_si256(w + 1));
  }
};
struct Words256 : Dot256 {
  static YHW_INLINE void add(Pair256& acc, __m256i x, const __m256i* w) {
    acc.low = _mm256_dpwssd_avx_epi32(acc.low, x, _mm256_loadu_si256(w));
    acc.high = _mm256_dpwssd_avx_epi32(acc.high, x, _mm256_loadu_si256(w + 1));
  }
};

struct InterleavedColumns : Columns256 {
  static constexpr int kTilePixels = 4;

  static YHW_INLINE void add(Pair256& acc, const Pair256& x, const __m256i* w) {
    acc.low = _mm256_dpbusd_avx_epi32(acc.low, x.low, _mm256_loadu_si256(w));
    acc.high = _mm256_dpbusd_avx_epi32(acc.high, x.high, _mm256_loadu_si256(w + 1));
  }
};

struct AvxVnniIsa {
  static constexpr const char* kName = "avxvnni";
  static constexpr WeightLayout kLayout = WeightLayout::kBytes;
  using Bytes = Bytes256;
  using Words = Words256;
  static constexpr int kMaxBlocks = 1;
  static constexpr int kTilePixels[] = {0, 6, 0, 0, 0};
  static constexpr int kSparsePixels = 6;

  static constexpr bool kInterleaves = true;
  using Columns = InterleavedColumns;
  using Packer = Packer256;
};

}  // namespace

const Kernels& avxvnni_kernels() { return make_kernels<AvxVnniIsa>(); }

}  // namespace yhw
