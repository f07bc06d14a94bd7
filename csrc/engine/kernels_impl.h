// SPDX-License-Identifier: Apache-2.0
// The kernels as templates over an instruction set `Isa`, which supplies the dot products. Included by one source file
// per instruction set; everything is in an unnamed namespace so that no function compiled for one can be linked into
// another.
#include <cstring>

#include "kernels.h"

#define YHW_INLINE inline __attribute__((always_inline))
#define YHW_UNROLL _Pragma("GCC unroll 16")

#include "conv_impl.h"
#include "finish_impl.h"

namespace yhw {
namespace {

// 16 codes from `from`; `count` of them exist.
template <typename Stored>
YHW_INLINE Vec load_codes(const uint8_t* from, int count) {
  StoredVec<Stored> codes{};
  std::memcpy(&codes, from, count >= kLanes ? sizeof(codes) : static_cast<size_t>(count) * sizeof(Stored));
  return __builtin_convertvector(codes, Vec);
}

template <typename Stored>
void depthwise_tile_stored(const PackedDepthwise& conv, const TileSource& source, int pixels, int first, int blocks,
                           int32_t* acc) {
  const Window& w = conv.window;
  const int lanes = conv.lanes;
  for (int p = 0; p < pixels; ++p) {
    const uint8_t* origin = source.uniform ? source.origin[0] + p * source.spacing : source.origin[p];
    const int64_t pitch_y = source.pitch_y[source.uniform ? 0 : p], pitch_x = source.pitch_x[source.uniform ? 0 : p];
    for (int b = 0; b < blocks; ++b) {
      const int channel = first + b * kLanes;
      Vec sum = load_vec(conv.bias + channel);
      const int16_t* weights = conv.weights + channel;
      for (int r = 0; r < w.size_y; ++r) {
        const uint8_t* tap = origin + r * pitch_y + channel * static_cast<int>(sizeof(Stored));
        for (int s = 0; s < w.size_x; ++s) {
          VecWords words;
          std::memcpy(&words, weights, sizeof(words));
          sum += load_codes<Stored>(tap, kLanes) * __builtin_convertvector(words, Vec);
          tap += pitch_x;
          weights += lanes;
        }
      }
      std::memcpy(acc + (p * blocks + b) * kLanes, &sum, sizeof(sum));
    }
  }
}

template <class Isa>
void depthwise_tile(const PackedDepthwise& conv, const TileSource& source, int pixels, int first, int blocks,
                    Storage storage, int32_t* acc) {
  if (storage.bytes == 1) {
    depthwise_tile_stored<uint8_t>(conv, source, pixels, first, blocks, acc);
  } else {
    depthwise_tile_stored<int16_t>(conv, source, pixels, first, blocks, acc);
  }
}

template <typename Stored>
void add_tile_stored(const PixelRun& run, int left, bool start, int32_t* acc) {
  const int blocks = (run.channels + kLanes - 1) / kLanes;
  const Vec zero = splat(run.storage.zero);
  for (int p = 0; p < run.pixels; ++p) {
    const uint8_t* from = run.data + p * run.spacing;
    for (int b = 0; b < blocks; ++b) {
      const Vec codes = load_codes<Stored>(from + b * kLanes * static_cast<int>(sizeof(Stored)), run.channels - b * kLanes);
      int32_t* to = acc + (p * blocks + b) * kLanes;
      const Vec shifted = (codes - zero) << left;
      const Vec sum = start ? shifted : load_vec(to) + shifted;
      std::memcpy(to, &sum, sizeof(sum));
    }
  }
}

template <class Isa>
void add_tile(const PixelRun& run, int left, bool start, int32_t* acc) {
  if (run.storage.bytes == 1) {
    add_tile_stored<uint8_t>(run, left, start, acc);
  } else {
    add_tile_stored<int16_t>(run, left, start, acc);
  }
}

template <typename StoredA, typename StoredB>
void mul_tile_stored(const PixelRun& a, const PixelRun& b, int32_t* acc) {
  const int blocks = (a.channels + kLanes - 1) / kLanes;
  const Vec zero_a = splat(a.storage.zero), zero_b = splat(b.storage.zero);
  for (int p = 0; p < a.pixels; ++p) {
    const uint8_t* from = a.data + p * a.spacing;
    const uint8_t* factors = b.data + p * b.spacing;
    const Vec shared = splat(load_codes<StoredB>(factors, 1)[0]);
    for (int i = 0; i < blocks; ++i) {
      const int first = i * kLanes;
      const Vec x = load_codes<StoredA>(from + first * static_cast<int>(sizeof(StoredA)), a.channels - first);
      const Vec f = b.channels == 1
                        ? shared
                        : load_codes<StoredB>(factors + first * static_cast<int>(sizeof(StoredB)), b.channels - first);
      const Vec product = (x - zero_a) * (f - zero_b);
      std::memcpy(acc + (p * blocks + i) * kLanes, &product, sizeof(product));
    }
  }
}

template <class Isa>
void mul_tile(const PixelRun& a, const PixelRun& b, int32_t* acc) {
  if (a.storage.bytes == 1) {
    b.storage.bytes == 1 ? mul_tile_stored<uint8_t, uint8_t>(a, b, acc) : mul_tile_stored<uint8_t, int16_t>(a, b, acc);
  } else {
    b.storage.bytes == 1 ? mul_tile_stored<int16_t, uint8_t>(a, b, acc) : mul_tile_stored<int16_t, int16_t>(a, b, acc);
  }
}

template <typename Stored>
void maxpool_row_stored(const Window& window, const View& src, int y, const View& dst) {
  const auto channels = static_cast<size_t>(src.c);
  for (int x = 0; x < dst.w; ++x) {
    auto* out = reinterpret_cast<Stored*>(dst.at(y, x));
    bool first = true;
    for (int r = 0; r < window.size_y; ++r) {
      const int iy = y * window.stride_y - window.pad_y + r;
      if (iy < 0 || iy >= src.h) continue;
      for (int s = 0; s < window.size_x; ++s) {
        const int ix = x * window.stride_x - window.pad_x + s;
        if (ix < 0 || ix >= src.w) continue;
        const auto* in = reinterpret_cast<const Stored*>(src.at(iy, ix));
        if (first) {
          std::memcpy(out, in, sizeof(Stored) * channels);
          first = false;
        } else {
          for (size_t c = 0; c < channels; ++c) {
            out[c] = out[c] < in[c] ? in[c] : out[c];
          }
        }
      }
    }
  }
}

template <class Isa>
void maxpool_row(const Window& window, const View& src, int y, const View& dst) {
  if (src.storage.bytes == 1) {
    maxpool_row_stored<uint8_t>(window, src, y, dst);
  } else {
    maxpool_row_stored<int16_t>(window, src, y, dst);
  }
}

template <class Isa>
const Kernels& make_kernels() {
  static const Kernels kernels = {Isa::kName,
                                  Isa::kLayout,
                                  Isa::kMaxBlocks,
                                  {0, Isa::kTilePixels[1], Isa::kTilePixels[2], Isa::kTilePixels[3], Isa::kTilePixels[4]},
                                  conv_tile<Isa>,
                                  sparse_tile<Isa>,
                                  depthwise_tile<Isa>,
                                  add_tile<Isa>,
                                  mul_tile<Isa>,
                                  finish<Isa>,
                                  finish_wide<Isa>,
                                  maxpool_row<Isa>};
  return kernels;
}

}  // namespace
}  // namespace yhw
