// SPDX-License-Identifier: Apache-2.0
// The tiles of a dense and of a block-sparse convolution, templates over an instruction set. Included by
// kernels_impl.h.
//
// An `Isa` has kMaxBlocks, the most blocks of output channels of a tile, kTilePixels[blocks], the most pixels, so that
// the accumulators stay in registers, kSparsePixels, the same of a sparse tile, and a dot policy for Bytes and one for
// Words:
//   Acc                       accumulators of kLanes output channels
//   load(p), store(p, acc)    int32[kLanes] <-> Acc
//   kWeightBytes, weights(p)  the weights of a step and kLanes output channels
//   input(p)                  kStepBytes bytes of input, prepared for all output channels
//   add(acc, x, weights)      acc[lane] += x . weights[lane], modulo 2^32
#ifndef YHW_ENGINE_CONV_IMPL_H_
#define YHW_ENGINE_CONV_IMPL_H_

#include "kernels.h"
#include "vec.h"

namespace yhw {
namespace {

// The addresses of kPixels pixels. Equally spaced ones need a register for every third pixel only, as the processor's
// addresses have the form base + {1, 2} * spacing.
template <int kPixels, bool kUniform>
struct PixelPointers;

template <int kPixels>
struct PixelPointers<kPixels, false> {
  const uint8_t* at[kPixels];

  YHW_INLINE void begin(const TileSource& source, int64_t row, int64_t column) {
    for (int p = 0; p < kPixels; ++p) {
      at[p] = source.origin[p] + row * source.pitch_y[p] + column * source.pitch_x[p];
    }
  }
  YHW_INLINE const uint8_t* operator[](int p) const { return at[p]; }
  YHW_INLINE void advance() {
    for (int p = 0; p < kPixels; ++p) {
      at[p] += kStepBytes;
    }
  }
};

template <int kPixels>
struct PixelPointers<kPixels, true> {
  static constexpr int kGroups = (kPixels + 2) / 3;
  const uint8_t* base[kGroups];
  int64_t spacing;

  YHW_INLINE void begin(const TileSource& source, int64_t row, int64_t column) {
    spacing = source.spacing;
    const uint8_t* first = source.origin[0] + row * source.pitch_y[0] + column * source.pitch_x[0];
    for (int g = 0; g < kGroups; ++g) {
      base[g] = first + 3 * g * spacing;
    }
  }
  YHW_INLINE const uint8_t* operator[](int p) const { return base[p / 3] + p % 3 * spacing; }
  YHW_INLINE void advance() {
    for (int g = 0; g < kGroups; ++g) {
      base[g] += kStepBytes;
    }
  }
};

template <class Dot, int kBlocks, int kPixels, bool kUniform>
void conv_tile_sized(const ConvChunk& chunk, const TileSource& source, int32_t* out) {
  typename Dot::Acc acc[kPixels][kBlocks];
  YHW_UNROLL
  for (int b = 0; b < kBlocks; ++b) {
    const auto bias = Dot::load(chunk.bias + b * kLanes);
    YHW_UNROLL
    for (int p = 0; p < kPixels; ++p) {
      acc[p][b] = bias;
    }
  }
  const uint8_t* weights = chunk.weights;
  const int steps = chunk.steps;
  for (int r = 0; r < chunk.rows; ++r) {
    for (int s = 0; s < chunk.columns; ++s) {
      PixelPointers<kPixels, kUniform> x;
      x.begin(source, r, s);
      for (int i = 0; i < steps; ++i) {
        typename Dot::Weights w[kBlocks];
        YHW_UNROLL
        for (int b = 0; b < kBlocks; ++b) {
          w[b] = Dot::weights(weights + b * Dot::kWeightBytes);
        }
        YHW_UNROLL
        for (int p = 0; p < kPixels; ++p) {
          const auto in = Dot::input(x[p]);
          YHW_UNROLL
          for (int b = 0; b < kBlocks; ++b) {
            Dot::add(acc[p][b], in, w[b]);
          }
        }
        x.advance();
        weights += kBlocks * Dot::kWeightBytes;
      }
    }
  }
  YHW_UNROLL
  for (int p = 0; p < kPixels; ++p) {
    YHW_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      Dot::store(out + (p * kBlocks + b) * kLanes, acc[p][b]);
    }
  }
}

// Picks the instance for a number of pixels in [1, kPixels].
template <class Dot, int kBlocks, int kPixels>
void conv_tile_blocks(const ConvChunk& chunk, const TileSource& source, int pixels, int32_t* acc) {
  if constexpr (kPixels > 1) {
    if (pixels < kPixels) {
      return conv_tile_blocks<Dot, kBlocks, kPixels - 1>(chunk, source, pixels, acc);
    }
  }
  if (source.uniform) {
    return conv_tile_sized<Dot, kBlocks, kPixels, true>(chunk, source, acc);
  }
  conv_tile_sized<Dot, kBlocks, kPixels, false>(chunk, source, acc);
}

template <class Isa, class Dot, int kBlocks = Isa::kMaxBlocks>
void conv_tile_dot(const ConvChunk& chunk, const TileSource& source, int pixels, int32_t* acc) {
  if constexpr (kBlocks > 1) {
    if (chunk.blocks < kBlocks) {
      return conv_tile_dot<Isa, Dot, kBlocks - 1>(chunk, source, pixels, acc);
    }
  }
  conv_tile_blocks<Dot, kBlocks, Isa::kTilePixels[kBlocks]>(chunk, source, pixels, acc);
}

template <class Isa>
void conv_tile(const ConvChunk& chunk, const TileSource& source, int pixels, int32_t* acc) {
  if (chunk.words) {
    conv_tile_dot<Isa, typename Isa::Words>(chunk, source, pixels, acc);
  } else {
    conv_tile_dot<Isa, typename Isa::Bytes>(chunk, source, pixels, acc);
  }
}

template <class Dot, int kRows, int kColumns>
void sparse_tile_sized(const SparseBlock& block, const SparseSource& source, int32_t* out) {
  typename Dot::Acc acc[kRows * kColumns];
  const auto bias = Dot::load(block.bias);
  YHW_UNROLL
  for (int p = 0; p < kRows * kColumns; ++p) {
    acc[p] = bias;
  }
  const int64_t spacing = source.spacing, pitch = source.pitch;
  const uint8_t* const origin = source.origin;
  const uint8_t* weights = block.weights;
  const int32_t* const end = block.offset + block.count;
  for (const int32_t* offset = block.offset; offset != end; ++offset) {
    const auto w = Dot::weights(weights);
    YHW_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const uint8_t* at = origin + *offset + r * pitch;
      YHW_UNROLL
      for (int p = 0; p < kColumns; ++p) {
        if (p % 3 == 0 && p > 0) {
          at += 3 * spacing;
        }
        Dot::add(acc[r * kColumns + p], Dot::input(at + p % 3 * spacing), w);
      }
    }
    weights += Dot::kWeightBytes;
  }
  YHW_UNROLL
  for (int p = 0; p < kRows * kColumns; ++p) {
    Dot::store(out + p * kLanes, acc[p]);
  }
}

template <class Dot, int kRows, int kColumns>
void sparse_tile_columns(const SparseBlock& block, const SparseSource& source, int32_t* acc) {
  if constexpr (kColumns > 1) {
    if (source.columns < kColumns) {
      return sparse_tile_columns<Dot, kRows, kColumns - 1>(block, source, acc);
    }
  }
  sparse_tile_sized<Dot, kRows, kColumns>(block, source, acc);
}

template <class Isa>
void sparse_tile(const SparseBlock& block, const SparseSource& source, int32_t* acc) {
  if (source.rows == 2) {
    return sparse_tile_columns<typename Isa::Bytes, 2, Isa::kSparsePixels / 2>(block, source, acc);
  }
  sparse_tile_columns<typename Isa::Bytes, 1, Isa::kSparsePixels>(block, source, acc);
}

}  // namespace
}  // namespace yhw

#endif  // YHW_ENGINE_CONV_IMPL_H_
