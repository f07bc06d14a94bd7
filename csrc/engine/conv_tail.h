// SPDX-License-Identifier: Apache-2.0
// From the accumulators of a convolution to the stored map: pooled, requantised, added to another map.
#ifndef YHW_ENGINE_CONV_TAIL_H_
#define YHW_ENGINE_CONV_TAIL_H_

#include <algorithm>

#include "op.h"

namespace yhw {

// The tail of one group's output channels, with the constants of its requantisations.
struct PackedTail {
  // Output channels [first, first + channels) of a convolution with the output `out`.
  PackedTail(const Requantiser& requant, const ConvTail& tail, int first, int channels, const View& out);

  bool pools;
  int first;
  Epilogue epilogue;
  std::shared_ptr<const Residual> residual;
  Epilogue sum;  // of the residual
};

// The map before a tail.
inline View tail_input(View out, const ConvTail& tail) {
  if (tail.pools) {
    out.h *= 2;
    out.w *= 2;
  }
  return out;
}

// Writes a chunk of output channels, tile by tile.
class TailWriter {
 public:
  // A chunk's first channel inside of its group.
  struct Lanes {
    int first, blocks;
  };

  static constexpr size_t scratch() { return kAccLanes * sizeof(int32_t) + kAccLanes * sizeof(Code); }

  TailWriter(const Kernels& kernels, const PackedTail& tail, const View& out, Lanes lanes, uint8_t* scratch)
      : kernels_(kernels),
        tail_(tail),
        out_(out),
        lanes_(lanes),
        acc_(reinterpret_cast<int32_t*>(scratch)),
        codes_(scratch + kAccLanes * sizeof(int32_t)) {}

  // Part `index` of `count` of the output. accumulate(y, x, pixels, acc) computes at most `tile` neighbouring
  // accumulators of the convolution.
  template <typename Accumulate>
  void write(int index, int count, int tile, const Accumulate& accumulate) {
    if (tail_.pools) {
      write_pooled(out_.h * index / count, out_.h * (index + 1) / count, tile, accumulate);
      return;
    }
    const int64_t tiles = (out_.pixels() + tile - 1) / tile;
    const int64_t begin = tiles * index / count * tile;
    const int64_t end = std::min(tiles * (index + 1) / count * tile, out_.pixels());
    int y = static_cast<int>(begin / out_.w), x = static_cast<int>(begin % out_.w);
    for (int64_t at = begin; at < end; at += together(tile)) {
      const int pixels = static_cast<int>(std::min<int64_t>(together(tile), end - at));
      for (int done = 0; done < pixels; done += tile) {
        const int part = std::min(tile, pixels - done);
        accumulate(y, x, part, accumulators_of(done));
        for (x += part; x >= out_.w; x -= out_.w) {
          ++y;
        }
      }
      store(at, pixels);
    }
  }

  // Row `row` of the output, in tiles that do not cross its end.
  template <typename Accumulate>
  void write_row(int row, int tile, const Accumulate& accumulate) {
    if (tail_.pools) {
      write_pooled(row, row + 1, tile, accumulate);
      return;
    }
    for (int x = 0; x < out_.w; x += together(tile)) {
      const int pixels = std::min(together(tile), out_.w - x);
      for (int done = 0; done < pixels; done += tile) {
        accumulate(row, x + done, std::min(tile, pixels - done), accumulators_of(done));
      }
      store(int64_t{row} * out_.w + x, pixels);
    }
  }

  // Rows [begin, end) of the output, not pooled: accumulate(y, rows, acc) computes whole rows, at most two.
  template <typename Accumulate>
  void write_rows(int begin, int end, const Accumulate& accumulate) {
    for (int y = begin; y < end; y += 2) {
      accumulate(y, std::min(2, end - y), accumulators_of((y - begin) * out_.w));
    }
    store(int64_t{begin} * out_.w, (end - begin) * out_.w);
  }

 private:
  // Four tiles, or more that are smaller.
  static constexpr int kAccLanes = 4 * kMaxTileLanes;

  // Pixels that are stored at once: some tiles, as the constants of a requantisation are many.
  int together(int tile) const { return std::max(1, kAccLanes / 2 / (tile * lanes_.blocks * kLanes)) * tile; }
  int32_t* accumulators_of(int pixel) const { return acc_ + pixel * lanes_.blocks * kLanes; }

  template <typename Accumulate>
  void write_pooled(int begin, int end, int tile, const Accumulate& accumulate) {
    const int vectors = lanes_.blocks, columns = 2 * tile;
    int32_t* below = acc_ + columns * vectors * kLanes;
    for (int y = begin; y < end; ++y) {
      for (int x = 0; x < out_.w; x += tile) {
        const int pixels = std::min(tile, out_.w - x);
        for (int row = 0; row < 2; ++row) {
          for (int column = 0; column < 2 * pixels; column += tile) {
            accumulate(2 * y + row, 2 * x + column, std::min(tile, 2 * pixels - column),
                       (row == 0 ? acc_ : below) + column * vectors * kLanes);
          }
        }
        kernels_.pool_tile(below, pixels, vectors, acc_);
        store(static_cast<int64_t>(y) * out_.w + x, pixels);
      }
    }
  }

  // Accumulators [pixels][blocks][kLanes] into neighbouring pixels of the output.
  void store(int64_t at, int pixels);

  const Kernels& kernels_;
  const PackedTail& tail_;
  const View& out_;
  Lanes lanes_;
  int32_t* acc_;
  uint8_t* codes_;
};

}  // namespace yhw

#endif  // YHW_ENGINE_CONV_TAIL_H_
