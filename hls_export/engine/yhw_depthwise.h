// SPDX-License-Identifier: Apache-2.0
// Depthwise convolution on the same multipliers: lanes are channels, and the TN side takes TN kernel positions at once.
// One pipeline runs over all columns of a spatial tile's input rows. A column moves the window one step; where it
// completes the window of an output pixel, the pixel takes ceil(R * S / TN) cycles in all, one per chunk of TN
// positions. The sums stay in registers until the last chunk, so every pixel is written once and nothing is read back.
// A kernel of at most TN positions thus gives min(TM, TN) outputs per cycle at stride 1.
// Cycles of a spatial tile: rows * (columns + pixels of a row * (ceil(R * S / TN) - 1)).
#ifndef YHW_DEPTHWISE_H_
#define YHW_DEPTHWISE_H_

#include "yhw_conv.h"

namespace yhw {

constexpr int kDepthwiseTaps = kMaxDepthwise * kMaxDepthwise;
constexpr int kDepthwiseChunks = (kDepthwiseTaps + kTn - 1) / kTn;
constexpr int kDepthwiseSteps = kIfmWords + kAccWords * (kDepthwiseChunks - 1);  // columns, and chunks behind the first

// The codes under the kernel, position r * S + s of a window of S columns at index r * S + s. Moving the window by a
// column is then a shift by one index, but for the last position of each row, which takes the new column's code.
typedef data_t WindowRegister[kDepthwiseTaps][kChannels];

// Moves a window of `kCols` columns and `rows` rows by one column.
template <int kCols>
YHW_HD void shift_columns(int rows, const data_t column[kMaxDepthwise][kChannels], WindowRegister& window) {
#pragma HLS INLINE
  for (int r = 0; r < kMaxDepthwise; ++r) {
#pragma HLS UNROLL
    for (int m = 0; m < kChannels && r < rows; ++m) {
#pragma HLS UNROLL
      for (int s = 0; s + 1 < kCols; ++s) {
#pragma HLS UNROLL
        window[r * kCols + s][m] = window[r * kCols + s + 1][m];
      }
      window[r * kCols + kCols - 1][m] = column[r][m];
    }
  }
}

// Moves the window to column `col` of the region; `first_row` is the window's first row in the region.
YHW_HD void shift_window(const yhw_descriptor_t& d, const InputBuffer& ifm, const Region& region, int first_row,
                         int col, WindowRegister& window) {
#pragma HLS INLINE
  // Eight rows in turn lie in eight banks: each bank is read once, at the same row of words or the one after.
  data_t lines[kRowBanks][kChannels], column[kMaxDepthwise][kChannels];
#pragma HLS ARRAY_PARTITION variable = lines complete dim = 0
#pragma HLS ARRAY_PARTITION variable = column complete dim = 0
  const int base = buffer_word(region, first_row, col), turn = first_row % kRowBanks;
  for (int bank = 0; bank < kRowBanks; ++bank) {
#pragma HLS UNROLL
    const int r = (bank + kRowBanks - turn) % kRowBanks;  // of the window
    const int word = bank < turn ? base + region.cols : base;
    for (int m = 0; m < kChannels; ++m) {
#pragma HLS UNROLL
      lines[bank][m] = r < d.size_h ? ifm[bank][word][m] : data_t(0);
    }
  }
  for (int r = 0; r < kMaxDepthwise; ++r) {
#pragma HLS UNROLL
    for (int m = 0; m < kChannels; ++m) {
#pragma HLS UNROLL
      column[r][m] = lines[(turn + r) % kRowBanks][m];
    }
  }
  // The width decides which registers are the last of a row; with one branch for each, every register has few sources.
  switch (d.size_w) {
    case 1:
      shift_columns<1>(d.size_h, column, window);
      break;
    case 2:
      shift_columns<2>(d.size_h, column, window);
      break;
    case 3:
      shift_columns<3>(d.size_h, column, window);
      break;
    case 4:
      shift_columns<4>(d.size_h, column, window);
      break;
    case 5:
      shift_columns<5>(d.size_h, column, window);
      break;
    case 6:
      shift_columns<6>(d.size_h, column, window);
      break;
    default:
      shift_columns<7>(d.size_h, column, window);
  }
}

// The products of one chunk of TN kernel positions, summed for each channel.
YHW_HD void multiply_chunk(const WindowRegister& window, const WeightBuffer& weights, int chunk, int taps,
                           acc_t part[kChannels]) {
#pragma HLS INLINE
  for (int m = 0; m < kChannels; ++m) {
#pragma HLS UNROLL
    part[m] = 0;
  }
  for (int n = 0; n < kTn; ++n) {
#pragma HLS UNROLL
    if (chunk * kTn + n < taps) {
      data_t codes[kChannels];
#pragma HLS ARRAY_PARTITION variable = codes complete
      for (int c = 0; c < kDepthwiseChunks; ++c) {
#pragma HLS UNROLL
        for (int m = 0; m < kChannels && c == chunk && c * kTn + n < kDepthwiseTaps; ++m) {
#pragma HLS UNROLL
          codes[m] = window[c * kTn + n][m];
        }
      }
      for (int m = 0; m < kChannels; ++m) {
#pragma HLS UNROLL
        part[m] += multiply(codes[m], weights[chunk][m][n]);
      }
    }
  }
}

// Sums of a spatial tile. record_fits: R, S <= kMaxDepthwise, ceil(R * S / TN) <= kMaxTaps, tile_h * tile_w <=
// kAccWords, and the region fits the input buffer.
YHW_STAGE void accumulate_depthwise(const yhw_descriptor_t& d, const InputBuffer& ifm, const WeightBuffer& weights,
                                    const ChannelTable& table, const Region& region, int tile_h, int tile_w,
                                    SumBuffer& sums) {
#pragma HLS INLINE off
  const int taps = d.size_h * d.size_w;
  const int chunks = divide_up(taps, kTn);
  const int steps = tile_h * (region.cols + tile_w * (chunks - 1));
  WindowRegister window;
  acc_t sum[kChannels];
#pragma HLS ARRAY_PARTITION variable = window complete dim = 0
#pragma HLS ARRAY_PARTITION variable = sum complete
  for (int m = 0; m < kChannels; ++m) {
#pragma HLS UNROLL
    sum[m] = 0;
    for (int t = 0; t < kDepthwiseTaps; ++t) {
#pragma HLS UNROLL
      window[t][m] = 0;
    }
  }
  int row = 0, pixel = 0;         // of the region, of the tile
  int col = 0, x = 0, chunk = 0;  // in the row
  int next = d.size_w - 1;        // the column that completes the window of pixel x
depthwise_steps:
  for (int step = 0; step < steps; ++step) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = kDepthwiseSteps
#pragma HLS PIPELINE II = 1
    if (chunk == 0) {
      shift_window(d, ifm, region, row, col, window);
    }
    const bool complete = col == next && x < tile_w;
    const bool last = !complete || chunk + 1 == chunks;
    if (complete) {
      acc_t part[kChannels];
#pragma HLS ARRAY_PARTITION variable = part complete
      multiply_chunk(window, weights, chunk, taps, part);
      for (int m = 0; m < kChannels; ++m) {
#pragma HLS UNROLL
        sum[m] = (chunk == 0 ? acc_t(table.bias[m]) : sum[m]) + part[m];
        if (last) {
          sums[pixel][m] = sum[m];
        }
      }
    }
    chunk = last ? 0 : chunk + 1;
    if (last) {
      if (complete) {
        ++pixel;
        ++x;
        next += d.stride_w;
      }
      ++col;
      if (col == region.cols) {
        col = 0;
        x = 0;
        next = d.size_w - 1;
        row += d.stride_h;
      }
    }
  }
}

}  // namespace yhw

#endif  // YHW_DEPTHWISE_H_
