// SPDX-License-Identifier: Apache-2.0
// A row of a depthwise convolution. Included by kernels_impl.h.
//
// An `Isa` that interleaves has a policy `Columns`: kTilePixels, the most pixels whose accumulators stay in registers
// beside the weights of a window, and
//   load<kRows>(rows, at)     byte c of up to 4 rows of taps side by side in lane c: one step of a dot product
//   add(acc, column, weights)
#ifndef YHW_ENGINE_DEPTHWISE_IMPL_H_
#define YHW_ENGINE_DEPTHWISE_IMPL_H_

#include <type_traits>

#include "kernels.h"
#include "vec.h"

namespace yhw {
namespace {

template <typename Stored>
void depthwise_row_stored(const PackedDepthwise& conv, const DepthwiseRow& row, int block, int pixels, int32_t* acc) {
  const Window& w = conv.window;
  const int channel = block * kLanes;
  for (int p = 0; p < pixels; ++p) {
    Vec sum = load_vec(conv.bias + channel);
    const int16_t* weights = conv.weights + channel;
    for (int r = 0; r < w.size_y; ++r) {
      const uint8_t* tap = row.rows[r] + row.offset + p * w.stride_x * row.pitch;
      for (int s = 0; s < w.size_x; ++s) {
        sum += widen(reinterpret_cast<const Stored*>(tap)) * widen(weights);
        tap += w.dilation_x * row.pitch;
        weights += conv.lanes;
      }
    }
    store_vec(acc + p * kLanes, sum);
  }
}

// A square window of kSize taps a side and kPixels pixels. Every column of taps is loaded once, for all the windows
// that it is part of.
template <class Isa, int kSize, int kStride, int kPixels>
void depthwise_columns(const uint8_t* const* rows, int64_t pitch, const uint8_t* weights, const int32_t* bias,
                       int32_t* out) {
  using Dot = typename Isa::Bytes;
  using Columns = typename Isa::Columns;
  constexpr int kQuads = (kSize + 3) / 4, kUsed = (kPixels - 1) * kStride + kSize;
  typename Dot::Acc acc[kPixels];
  YHW_UNROLL
  for (int p = 0; p < kPixels; ++p) {
    acc[p] = Dot::load(bias);
  }
  const auto add_column = [&](auto column) __attribute__((always_inline)) {
    constexpr int kColumn = decltype(column)::value;
    const auto add_quad = [&](auto quad) __attribute__((always_inline)) {
      constexpr int kQuad = decltype(quad)::value, kRows = kSize - 4 * kQuad < 4 ? kSize - 4 * kQuad : 4;
      const auto taps = Columns::template load<kRows>(rows + 4 * kQuad, kColumn * pitch);
      YHW_UNROLL
      for (int s = 0; s < kSize; ++s) {
        constexpr int kFirst = kColumn;
        if (kFirst >= s && (kFirst - s) % kStride == 0 && (kFirst - s) / kStride < kPixels) {
          Columns::add(acc[(kFirst - s) / kStride], taps,
                       Dot::weights(weights + (s * kQuads + kQuad) * Dot::kWeightBytes));
        }
      }
    };
    add_quad(std::integral_constant<int, 0>{});
    if constexpr (kQuads > 1) {
      add_quad(std::integral_constant<int, 1>{});
    }
  };
  for_each_index<kUsed>(add_column);
  YHW_UNROLL
  for (int p = 0; p < kPixels; ++p) {
    Dot::store(out + p * kLanes, acc[p]);
  }
}

// Picks the instance for a number of pixels in [1, kPixels].
template <class Isa, int kSize, int kStride, int kPixels>
void depthwise_columns_pixels(const uint8_t* const* rows, int64_t pitch, const uint8_t* weights, const int32_t* bias,
                              int pixels, int32_t* out) {
  if constexpr (kPixels > 1) {
    if (pixels < kPixels) {
      return depthwise_columns_pixels<Isa, kSize, kStride, kPixels - 1>(rows, pitch, weights, bias, pixels, out);
    }
  }
  depthwise_columns<Isa, kSize, kStride, kPixels>(rows, pitch, weights, bias, out);
}

template <class Isa, int kSize, int kStride>
void depthwise_row_columns(const PackedDepthwise& conv, const DepthwiseRow& row, int block, int pixels, int32_t* acc) {
  constexpr int kMax = Isa::Columns::kTilePixels, kQuads = (kSize + 3) / 4;
  const uint8_t* rows[kQuads * 4];
  for (int r = 0; r < kQuads * 4; ++r) {
    rows[r] = row.rows[r] + row.offset;
  }
  const uint8_t* weights = conv.columns + block * kSize * kQuads * Isa::Bytes::kWeightBytes;
  const int tiles = (pixels + kMax - 1) / kMax;
  for (int tile = 0, p = 0; tile < tiles; ++tile) {  // of nearly equal size
    const int count = (pixels - p + tiles - tile - 1) / (tiles - tile);
    depthwise_columns_pixels<Isa, kSize, kStride, kMax>(rows, row.pitch, weights, conv.bias + block * kLanes, count,
                                                        acc + p * kLanes);
    for (const uint8_t*& from : rows) {
      from += count * kStride * row.pitch;
    }
    p += count;
  }
}

template <class Isa>
void depthwise_row(const PackedDepthwise& conv, const DepthwiseRow& row, int block, int pixels, int32_t* acc) {
  if constexpr (Isa::kInterleaves) {
    if (conv.columns != nullptr) {
      const bool small = conv.window.size_x == 3;
      switch (conv.window.stride_x) {
        case 1:
          return small ? depthwise_row_columns<Isa, 3, 1>(conv, row, block, pixels, acc)
                       : depthwise_row_columns<Isa, 5, 1>(conv, row, block, pixels, acc);
        case 2:
          return small ? depthwise_row_columns<Isa, 3, 2>(conv, row, block, pixels, acc)
                       : depthwise_row_columns<Isa, 5, 2>(conv, row, block, pixels, acc);
        default:
          return depthwise_row_columns<Isa, 3, 4>(conv, row, block, pixels, acc);
      }
    }
  }
  if (row.storage.bytes == 1) {
    depthwise_row_stored<uint8_t>(conv, row, block, pixels, acc);
  } else {
    depthwise_row_stored<int16_t>(conv, row, block, pixels, acc);
  }
}

}  // namespace
}  // namespace yhw

#endif  // YHW_ENGINE_DEPTHWISE_IMPL_H_
