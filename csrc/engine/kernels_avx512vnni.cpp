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

// Where the bytes of pixels lie in packed registers, by the number of bytes from one pixel to the next.
struct PackedOrders {
  alignas(64) uint8_t of[kLanes + 1][64] = {};

  constexpr PackedOrders() {
    for (int pitch = 1; pitch <= kLanes; ++pitch) {
      for (int i = 0; i < 64; ++i) {
        const int p = i / pitch % kPackedPixels, c = i % pitch;
        of[pitch][i] = static_cast<uint8_t>(c / 4 * 16 + p * 4 + c % 4);
      }
    }
  }
};
constexpr PackedOrders kOrders;

// Narrows four pixels with saturation to one register of bytes.
class Packer512 {
 public:
  explicit Packer512(const ByteSink& sink)
      : sink_(sink),
        dense_(sink.spacing == sink.count),
        lo_(_mm512_set1_epi8(static_cast<char>(sink.lo))),
        hi_(_mm512_set1_epi8(static_cast<char>(sink.hi))),
        zero_(_mm512_set1_epi16(sink.zero)),
        rebase_(_mm512_set1_epi8(static_cast<char>(sink.rebase))) {
    order_ = _mm512_load_si512(kOrders.of[dense_ ? sink.count : kLanes]);
    for (int i = 0; i < 4; ++i) {
      table_[i] = sink.table != nullptr ? _mm512_loadu_si512(sink.table + 64 * i) : _mm512_setzero_si512();
    }
  }

  YHW_INLINE void store(const Vec* shifted, int pixels, uint8_t* to) const {
    const auto words = [&](int p) __attribute__((always_inline)) {
      return _mm512_adds_epi16(
          _mm512_packs_epi32(reinterpret_cast<__m512i>(shifted[p]), reinterpret_cast<__m512i>(shifted[p + 1])), zero_);
    };
    __m512i bytes = _mm512_packus_epi16(words(0), words(2));
    bytes = _mm512_add_epi8(_mm512_min_epu8(_mm512_max_epu8(bytes, lo_), hi_), rebase_);
    bytes = _mm512_maskz_permutexvar_epi8(~__mmask64{0}, order_, bytes);
    if (sink_.table != nullptr) {
      bytes = look_up_all(bytes);
    }
    if (dense_) {
      const int count = pixels * sink_.count;
      if (count == 64) {
        _mm512_storeu_si512(to, bytes);
      } else {
        _mm512_mask_storeu_epi8(to, (__mmask64{1} << count) - 1, bytes);
      }
      return;
    }
    __m128i first;
    std::memcpy(&first, &bytes, sizeof(first));
    store_pixel(first, to);
    if (pixels > 1) {
      store_pixel(_mm512_maskz_extracti32x4_epi32(kAll, bytes, 1), to + sink_.spacing);
    }
    if (pixels > 2) {
      store_pixel(_mm512_maskz_extracti32x4_epi32(kAll, bytes, 2), to + 2 * sink_.spacing);
    }
    if (pixels > 3) {
      store_pixel(_mm512_maskz_extracti32x4_epi32(kAll, bytes, 3), to + 3 * sink_.spacing);
    }
  }

 private:
  static constexpr __mmask8 kAll = 0xff;

  // Of 256 entries, 7 bits of an index choose in either half and the eighth between the two.
  YHW_INLINE __m512i look_up_all(__m512i index) const {
    const __m512i low = _mm512_permutex2var_epi8(table_[0], index, table_[1]);
    const __m512i high = _mm512_permutex2var_epi8(table_[2], index, table_[3]);
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(index), low, high);
  }

  YHW_INLINE void store_pixel(__m128i bytes, uint8_t* to) const {
    if (sink_.count == kLanes) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
    } else {
      _mm_mask_storeu_epi8(to, static_cast<__mmask16>((1u << sink_.count) - 1), bytes);
    }
  }

  ByteSink sink_;
  bool dense_;
  __m512i lo_, hi_, zero_, rebase_, order_, table_[4];
};

struct Avx512VnniIsa {
  static constexpr const char* kName = "avx512vnni";
  static constexpr WeightLayout kLayout = WeightLayout::kBytes;
  using Bytes = Bytes512;
  using Words = Words512;
  // 24 of the 32 registers hold accumulators; the others the weights of a step and an input.
  static constexpr int kMaxBlocks = 4;
  static constexpr int kTilePixels[] = {0, 16, 12, 8, 6};
  static constexpr int kSparsePixels = 28;

  static constexpr bool kInterleaves = true;
  using Columns = Columns512;

  using Packer = Packer512;
};

}  // namespace

const Kernels& avx512vnni_kernels() { return make_kernels<Avx512VnniIsa>(); }

}  // namespace yhw
