// SPDX-License-Identifier: Apache-2.0
// The tile of a depthwise convolution. Included by kernels_impl.h.
#ifndef YHW_ENGINE_DEPTHWISE_IMPL_H_
#define YHW_ENGINE_DEPTHWISE_IMPL_H_

#include "kernels.h"
#include "vec.h"

namespace yhw {
namespace {

// Where the taps of a pixel lie.
struct TapGrid {
  const uint8_t* origin;
  int64_t pitch_y, pitch_x;

  YHW_INLINE TapGrid(const TileSource& source, int p)
      : origin(source.uniform ? source.origin[0] + p * source.spacing : source.origin[p]),
        pitch_y(source.pitch_y[source.uniform ? 0 : p]),
        pitch_x(source.pitch_x[source.uniform ? 0 : p]) {}
};

template <typename Stored>
void depthwise_tile_stored(const PackedDepthwise& conv, const TileSource& source, int pixels, int first, int blocks,
                           int32_t* acc) {
  const Window& w = conv.window;
  for (int p = 0; p < pixels; ++p) {
    const TapGrid grid(source, p);
    for (int b = 0; b < blocks; ++b) {
      const int channel = first + b * kLanes;
      Vec sum = load_vec(conv.bias + channel);
      const int16_t* weights = conv.weights + channel;
      for (int r = 0; r < w.size_y; ++r) {
        const uint8_t* tap = grid.origin + r * grid.pitch_y + channel * static_cast<int>(sizeof(Stored));
        for (int s = 0; s < w.size_x; ++s) {
          sum += widen(reinterpret_cast<const Stored*>(tap)) * widen(weights);
          tap += grid.pitch_x;
          weights += conv.lanes;
        }
      }
      store_vec(acc + (p * blocks + b) * kLanes, sum);
    }
  }
}

// Bytes, four taps in a dot product: the taps' kLanes channels are loaded and interleaved by Isa::Taps.
template <class Isa>
void depthwise_tile_quads(const PackedDepthwise& conv, const TileSource& source, int pixels, int first, int blocks,
                          int32_t* acc) {
  using Dot = typename Isa::Bytes;
  const int taps = conv.window.taps(), quads = (taps + 3) / 4;
  int64_t offset[kMaxQuadTaps];
  int64_t pitch_y = -1, pitch_x = -1;
  for (int p = 0; p < pixels; ++p) {
    const TapGrid grid(source, p);
    if (grid.pitch_y != pitch_y || grid.pitch_x != pitch_x) {
      pitch_y = grid.pitch_y;
      pitch_x = grid.pitch_x;
      for (int t = 0; t < quads * 4; ++t) {  // the last quad repeats the last tap with zero weights
        const int tap = t < taps ? t : taps - 1;
        offset[t] = tap / conv.window.size_x * pitch_y + tap % conv.window.size_x * pitch_x;
      }
    }
    for (int b = 0; b < blocks; ++b) {
      const int block = first / kLanes + b;
      const uint8_t* origin = grid.origin + block * kLanes;
      const uint8_t* weights = conv.quads + static_cast<int64_t>(block) * quads * Dot::kWeightBytes;
      auto sum = Dot::load(conv.bias + block * kLanes);
      for (int q = 0; q < quads; ++q) {
        Dot::add(sum, Isa::interleave(origin, offset + q * 4), Dot::weights(weights + q * Dot::kWeightBytes));
      }
      Dot::store(acc + (p * blocks + b) * kLanes, sum);
    }
  }
}

template <class Isa>
void depthwise_tile(const PackedDepthwise& conv, const TileSource& source, int pixels, int first, int blocks,
                    Storage storage, int32_t* acc) {
  if constexpr (Isa::kInterleaves) {
    if (conv.quads != nullptr) {
      return depthwise_tile_quads<Isa>(conv, source, pixels, first, blocks, acc);
    }
  }
  if (storage.bytes == 1) {
    depthwise_tile_stored<uint8_t>(conv, source, pixels, first, blocks, acc);
  } else {
    depthwise_tile_stored<int16_t>(conv, source, pixels, first, blocks, acc);
  }
}

}  // namespace
}  // namespace yhw

#endif  // YHW_ENGINE_DEPTHWISE_IMPL_H_
