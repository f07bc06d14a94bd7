// SPDX-License-Identifier: Apache-2.0
// Convolution on one TM x TN multiply-accumulate tile.
//
// Dense and grouped: every cycle one pixel's TN input codes meet TM x TN weights of one kernel position; the sum over
// the input channels goes to TM accumulators of that pixel. An output tile visits only the input tiles of its
// tile-table entry. Depthwise: lanes are channels; the TN side takes TN kernel positions at once, fed by a window
// register that moves one column per cycle. A 3x3 layer thus gives min(TM, TN) outputs per cycle instead of one in TN.
// Cycles of a spatial tile: dense R * S * pixels per input tile; depthwise columns * rows * ceil(R * S / TN) + window
// fill.
#ifndef YHW_CONV_H_
#define YHW_CONV_H_

#include "yhw_window.h"

namespace yhw {

// Accumulators are read and written every cycle; a pixel must not come round again before its sum has left the
// pipeline.
constexpr int kMinPixels = 16;

struct WeightBuffer {
  weight_t codes[kMaxTaps][kTm][kTn];
};

struct Accumulators {
  acc_t sums[kAccWords][kTm];
};

// Bias and shift of the TM channels of an output tile.
struct ChannelTable {
  int32_t bias[kTm];
  int32_t shift[kTm];
};

// An entry of the tile table.
struct TileEntry {
  int first, count;
  uint32_t weights;  // byte offset in the parameters
};

YHW_HD TileEntry read_tile_entry(const word_t* params, const yhw_descriptor_t& d, int tile) {
  const uint32_t address = d.tile_table_offset + 16 * tile;
  TileEntry entry = {read_int32(params, address), read_int32(params, address + 4),
                     static_cast<uint32_t>(read_int32(params, address + 8))};
  return entry;
}

YHW_STAGE void load_channels(const word_t* params, const yhw_descriptor_t& d, int first, int count,
                             ChannelTable* table) {
#pragma HLS INLINE off
load_channel:
  for (int i = 0; i < count; ++i) {
#pragma HLS LOOP_TRIPCOUNT min = 4 max = 128
#pragma HLS PIPELINE II = 2
    const uint32_t address = d.channel_table_offset + 8 * (first + i);
    table->bias[i] = read_int32(params, address);
    table->shift[i] = read_int32(params, address + 4);
  }
}

// `steps` times TM x TN weights, from byte offset `address` on.
YHW_STAGE void load_weights(const word_t* params, uint32_t address, int steps, int weight_bytes, WeightBuffer* buffer) {
#pragma HLS INLINE off
  constexpr int kSize = kTm * kTn;
  uint32_t index = address / kLanes;
load_steps:
  for (int t = 0; t < steps; ++t) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 49
  load_words:
    for (int i = 0; i < kSize; i += kLanes) {
#pragma HLS PIPELINE II = 1
      word_t low = params[index];
      ++index;
      word_t high = low;
      if (weight_bytes == 2) {
        high = params[index];
        ++index;
      }
      for (int k = 0; k < kLanes; ++k) {
#pragma HLS UNROLL
        int32_t code;
        if (weight_bytes == 2) {
          const word_t& word = 2 * k < kLanes ? low : high;
          const int first = 2 * k < kLanes ? 2 * k : 2 * k - kLanes;
          code = static_cast<int16_t>(word_byte(word, first) | (word_byte(word, first + 1) << 8));
        } else {
          code = static_cast<int8_t>(word_byte(low, k));
        }
        buffer->codes[t][(i + k) / kTn][(i + k) % kTn] = code;
      }
    }
  }
}

YHW_STAGE void start_sums(const ChannelTable& table, int pixels, Accumulators* acc) {
#pragma HLS INLINE off
start_pixel:
  for (int p = 0; p < pixels; ++p) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 1024
#pragma HLS PIPELINE II = 1
    for (int m = 0; m < kTm; ++m) {
#pragma HLS UNROLL
      acc->sums[p][m] = table.bias[m];
    }
  }
}

// Adds the products of one input tile to the accumulators of a spatial tile.
YHW_STAGE void accumulate_dense(const yhw_descriptor_t& d, const InputBuffer& ifm, const WeightBuffer& weights,
                                const Region& region, int tile_h, int tile_w, Accumulators* acc) {
#pragma HLS INLINE off
  const int pixels = tile_h * tile_w;
  const int steps = pixels < kMinPixels ? kMinPixels : pixels;
  const int taps = d.size_h * d.size_w;
  int r = 0, s = 0;
dense_taps:
  for (int t = 0; t < taps; ++t) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 49
    int y = 0, x = 0;
  dense_pixels:
    for (int p = 0; p < steps; ++p) {
#pragma HLS LOOP_TRIPCOUNT min = 16 max = 1024
#pragma HLS PIPELINE II = 1
#pragma HLS DEPENDENCE variable = acc->sums inter false
      if (p < pixels) {
        const int row = y * d.stride_h + r * d.dilation_h, col = x * d.stride_w + s * d.dilation_w;
        data_t codes[kTn];
#pragma HLS ARRAY_PARTITION variable = codes complete
        for (int n = 0; n < kTn; ++n) {
#pragma HLS UNROLL
          codes[n] = ifm.codes[row % kRowBanks][buffer_word(region, row, col)][n];
        }
        for (int m = 0; m < kTm; ++m) {
#pragma HLS UNROLL
          acc_t sum = acc->sums[p][m];
          for (int n = 0; n < kTn; ++n) {
#pragma HLS UNROLL
            sum += static_cast<acc_t>(codes[n]) * static_cast<acc_t>(weights.codes[t][m][n]);
          }
          acc->sums[p][m] = sum;
        }
        x = x + 1 == tile_w ? 0 : x + 1;
        y = x == 0 ? y + 1 : y;
      }
    }
    s = s + 1 == d.size_w ? 0 : s + 1;
    r = s == 0 ? r + 1 : r;
  }
}

// The last columns of a depthwise layer's input rows, newest last, all kernel rows of it.
struct WindowRegister {
  data_t codes[kMaxDepthwise][kMaxDepthwise][kChannels];
};

YHW_HD void shift_window(const InputBuffer& ifm, const Region& region, int first_row, int rows, int col,
                         WindowRegister* window) {
#pragma HLS INLINE
  for (int r = 0; r < kMaxDepthwise; ++r) {
#pragma HLS UNROLL
    for (int m = 0; m < kChannels; ++m) {
#pragma HLS UNROLL
      for (int s = 0; s + 1 < kMaxDepthwise; ++s) {
#pragma HLS UNROLL
        window->codes[r][s][m] = window->codes[r][s + 1][m];
      }
      const int row = first_row + r;
      window->codes[r][kMaxDepthwise - 1][m] =
          r < rows ? ifm.codes[row % kRowBanks][buffer_word(region, row, col)][m] : data_t(0);
    }
  }
}

// Adds all kernel positions of a depthwise layer; `weights` holds chunks of TN positions.
YHW_STAGE void accumulate_depthwise(const yhw_descriptor_t& d, const InputBuffer& ifm, const WeightBuffer& weights,
                                    const Region& region, int tile_h, int tile_w, Accumulators* acc) {
#pragma HLS INLINE off
  const int taps = d.size_h * d.size_w;
  const int chunks = (taps + kTn - 1) / kTn;
  WindowRegister window;
#pragma HLS ARRAY_PARTITION variable = window.codes complete dim = 0
depthwise_rows:
  for (int y = 0; y < tile_h; ++y) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
    int x = 0, next = d.size_w - 1;  // the output pixel whose window is complete with column `next`
  depthwise_columns:
    for (int col = 0; col < region.cols; ++col) {
#pragma HLS LOOP_TRIPCOUNT min = 3 max = 418
      shift_window(ifm, region, y * d.stride_h, d.size_h, col, &window);
      if (col == next && x < tile_w) {
        int r = 0, s = kMaxDepthwise - d.size_w;
      depthwise_taps:
        for (int chunk = 0; chunk < chunks; ++chunk) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4
#pragma HLS PIPELINE II = 1
          for (int n = 0; n < kTn; ++n) {
#pragma HLS UNROLL
            if (chunk * kTn + n < taps) {
              for (int m = 0; m < kChannels; ++m) {
#pragma HLS UNROLL
                acc->sums[y * tile_w + x][m] +=
                    static_cast<acc_t>(window.codes[r][s][m]) * static_cast<acc_t>(weights.codes[chunk][m][n]);
              }
              s = s + 1 == kMaxDepthwise ? kMaxDepthwise - d.size_w : s + 1;
              r = s == kMaxDepthwise - d.size_w ? r + 1 : r;
            }
          }
        }
        ++x;
        next += d.stride_w;
      }
    }
  }
}

// Requantises and writes the first `lanes` accumulators of every pixel of a spatial tile.
YHW_STAGE void store_tile(const Store& store, const MapPort& out, const ChannelTable& table, int channel, int lanes,
                          int oy, int ox, int tile_h, int tile_w, const Accumulators& acc, word_t* memory) {
#pragma HLS INLINE off
store_pieces:
  for (int first = 0; first < lanes; first += kLanes) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 8
    if (channel + first >= store.channels) {
      break;
    }
  store_rows:
    for (int y = 0; y < tile_h; ++y) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
    store_columns:
      for (int x = 0; x < tile_w; ++x) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 416
#pragma HLS PIPELINE II = 1
        acc_t sums[kLanes];
        int32_t shift[kLanes];
#pragma HLS ARRAY_PARTITION variable = sums complete
#pragma HLS ARRAY_PARTITION variable = shift complete
        for (int i = 0; i < kLanes; ++i) {
#pragma HLS UNROLL
          sums[i] = acc.sums[y * tile_w + x][first + i];
          shift[i] = table.shift[first + i];
        }
        store_piece(store, out, channel + first, oy + y, ox + x, sums, shift, memory);
      }
    }
  }
}

}  // namespace yhw

#endif  // YHW_CONV_H_
