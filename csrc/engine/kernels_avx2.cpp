// SPDX-License-Identifier: Apache-2.0
// Kernels for AVX2, called only where the processor has it.
#include "dot256.h"

namespace yhw {
namespace {

// vpmaddwd multiplies 16 int16 pairs and adds neighbours in int32. The sum of two products wraps only for
// (-2^15)^2 + (-2^15)^2, like every sum here, modulo 2^32.
YHW_INLINE void add_words(Pair256& acc, __m256i x, const __m256i* w) {
  acc.low = _mm256_add_epi32(acc.low, _mm256_madd_epi16(x, _mm256_loadu_si256(w)));
  acc.high = _mm256_add_epi32(acc.high, _mm256_madd_epi16(x, _mm256_loadu_si256(w + 1)));
}

// vpmaddubsw would saturate, so bytes are widened: the even ones of a step by a mask, the odd ones by a shift.
struct Bytes256 : Dot256 {
  static constexpr int kWeightBytes = 128;

  struct EvenOdd {
    __m256i even, odd;
  };
  static YHW_INLINE EvenOdd input(const uint8_t* from) {
    const __m256i step = Dot256::input(from);
    return {_mm256_and_si256(step, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(step, 8)};
  }
  static YHW_INLINE void add(Pair256& acc, const EvenOdd& x, const __m256i* w) {
    add_words(acc, x.even, w);
    add_words(acc, x.odd, w + 2);
  }
};
struct Words256 : Dot256 {
  static YHW_INLINE void add(Pair256& acc, __m256i x, const __m256i* w) { add_words(acc, x, w); }
};

struct InterleavedColumns : Columns256 {
  static constexpr int kTilePixels = 3;

  static YHW_INLINE void add(Pair256& acc, const Pair256& x, const __m256i* w) {
    const __m256i mask = _mm256_set1_epi16(0xff);
    const auto dot = [](__m256i sum, __m256i codes, const __m256i* weights) {
      return _mm256_add_epi32(sum, _mm256_madd_epi16(codes, _mm256_loadu_si256(weights)));
    };
    acc.low = dot(dot(acc.low, _mm256_and_si256(x.low, mask), w), _mm256_srli_epi16(x.low, 8), w + 2);
    acc.high = dot(dot(acc.high, _mm256_and_si256(x.high, mask), w + 1), _mm256_srli_epi16(x.high, 8), w + 3);
  }
};

struct Avx2Isa {
  static constexpr const char* kName = "avx2";
  static constexpr WeightLayout kLayout = WeightLayout::kEvenOddWords;
  using Bytes = Bytes256;
  using Words = Words256;
  static constexpr int kMaxBlocks = 1;
  static constexpr int kTilePixels[] = {0, 5, 0, 0, 0};
  static constexpr int kSparsePixels = 5;

  static constexpr bool kInterleaves = true;
  using Columns = InterleavedColumns;
  using Packer = Packer256;
};

}  // namespace

const Kernels& avx2_kernels() { return make_kernels<Avx2Isa>(); }

}  // namespace yhw
