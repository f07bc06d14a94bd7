// SPDX-License-Identifier: Apache-2.0
// Kernels for AVX-512 with VNNI, called only where the processor has it.
#include <immintrin.h>

#include "kernels_impl.h"

namespace yhw {
namespace {

// One register holds the accumulators of all kLanes output channels.
struct Dot512 {
  using Acc = __m512i;
  using Weights = __m512i;
  static constexpr int kWeightBytes = 64;

  static YHW_INLINE __m512i load(const int32_t* from) { return _mm512_loadu_si512(from); }
  static YHW_INLINE void store(int32_t* to, __m512i acc) { _mm512_storeu_si512(to, acc); }
  static YHW_INLINE __m512i weights(const uint8_t* from) { return _mm512_loadu_si512(from); }
  static YHW_INLINE __m512i input(const uint8_t* from) {
    int32_t step;
    std::memcpy(&step, from, sizeof(step));
    return _mm512_set1_epi32(step);
  }
};

// The instructions wrap modulo 2^32 and never saturate.
struct Bytes512 : Dot512 {
  static YHW_INLINE void add(__m512i& acc, __m512i x, __m512i w) { acc = _mm512_dpbusd_epi32(acc, x, w); }
};
struct Words512 : Dot512 {
  static YHW_INLINE void add(__m512i& acc, __m512i x, __m512i w) { acc = _mm512_dpwssd_epi32(acc, x, w); }
};

struct Columns512 {
  static constexpr int kTilePixels = 10;

  template <int kRows>
  static YHW_INLINE __m512i load(const uint8_t* const* rows, int64_t at) {
    const auto row = [&](int r) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[r] + at)); };
    if constexpr (kRows == 1) {
      return _mm512_maskz_cvtepu8_epi32(static_cast<__mmask16>(~0u), row(0));
    } else {
      // A masked broadcast is a load and a blend; only the last step needs the shuffle unit.
      __m512i taps = _mm512_zextsi128_si512(row(0));
      taps = _mm512_mask_broadcast_i32x4(taps, 0x00f0, row(1));
      taps = kRows > 2 ? _mm512_mask_broadcast_i32x4(taps, 0x0f00, row(2)) : taps;
      taps = kRows > 3 ? _mm512_mask_broadcast_i32x4(taps, 0xf000, row(3)) : taps;
      const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
      const __m512i order =
          _mm512_add_epi32(_mm512_set1_epi32(0x30201000), _mm512_mullo_epi32(lane, _mm512_set1_epi32(0x01010101)));
      return _mm512_maskz_permutexvar_epi8(~__mmask64{0}, order, taps);
    }
  }
  static YHW_INLINE void add(__m512i& acc, __m512i x, __m512i w) { acc = _mm512_dpbusd_epi32(acc, x, w); }
};

struct Avx512VnniIsa {
  static constexpr const char* kName = "avx512vnni";
  static constexpr WeightLayout kLayout = WeightLayout::kBytes;
  using Bytes = Bytes512;
  using Words = Words512;
  // 24 of the 32 registers hold accumulators; the others the weights of a step and an input.
  static constexpr int kMaxBlocks = 4;
  static constexpr int kTilePixels[] = {0, 16, 12, 8, 6};

  static constexpr bool kInterleaves = true;
  using Columns = Columns512;

  static constexpr bool kMasks = true;
  static YHW_INLINE void store_bytes(uint8_t* to, Vec stored, int count) {
    const auto mask = static_cast<__mmask16>((1u << count) - 1);
    __m128i bytes = _mm512_maskz_cvtepi32_epi8(mask, reinterpret_cast<__m512i>(stored));
    asm("" : "+v"(bytes));  // keeps the narrowing out of the store: together they are slow on some processors
    _mm_mask_storeu_epi8(to, mask, bytes);
  }
};

}  // namespace

const Kernels& avx512vnni_kernels() { return make_kernels<Avx512VnniIsa>(); }

}  // namespace yhw
