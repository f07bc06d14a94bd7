// SPDX-License-Identifier: Apache-2.0
// Dense and grouped convolution on one TM x TN multiply-accumulate tile: every cycle one pixel's TN input codes meet
// TM x TN weights of one kernel position; the sum over the input channels goes to TM accumulators of that pixel. An
// output tile visits only the input tiles of its tile-table entry.
// Cycles of a spatial tile: R * S * max(pixels, kMinPixels) per input tile.
#ifndef YHW_CONV_H_
#define YHW_CONV_H_

#include "yhw_window.h"

namespace yhw {

typedef weight_t WeightBuffer[kMaxTaps][kTm][kTn];
typedef acc_t SumBuffer[kAccWords][kTm];

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

// `count` entries of bias and shift, a multiple of L, from channel `first` on, a multiple of `count`.
YHW_STAGE void load_channels(const word_t* params, const yhw_descriptor_t& d, int first, int count,
                             ChannelTable* table) {
#pragma HLS INLINE off
  const int index = static_cast<int>((d.channel_table_offset + 8 * static_cast<uint32_t>(first)) / kLanes);
  const int words = 8 * count / kLanes;
load_channel_words:
  for (int i = 0; i < words; ++i) {
#pragma HLS LOOP_TRIPCOUNT min = 8 max = kChannelWords
#pragma HLS PIPELINE II = 1
    const word_t word = params[index + i];
    for (int k = 0; k < kLanes / 4; ++k) {
#pragma HLS UNROLL
      const int value = i * (kLanes / 4) + k;  // biases are the even ones
      if (value % 2 == 0) {
        table->bias[value / 2] = word_int32(word, 4 * k);
      } else {
        table->shift[value / 2] = word_int32(word, 4 * k);
      }
    }
  }
}

// `steps` times TM x TN weights, from byte offset `address` on. record_fits: steps <= kMaxTaps.
YHW_STAGE void load_weights(const word_t* params, uint32_t address, int steps, int weight_bytes,
                            WeightBuffer& weights) {
#pragma HLS INLINE off
  const int per_word = kMaxWeightBytes == 1 || weight_bytes == 1 ? kLanes : kLanes / 2;
  const int first = static_cast<int>(address / kLanes);
  const int words = steps * (kTm * kTn / per_word);
  int t = 0, m = 0, n = 0;
load_weight_words:
  for (int i = 0; i < words; ++i) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = kWeightWords
#pragma HLS PIPELINE II = 1
    const word_t word = params[first + i];
    for (int k = 0; k < kLanes; ++k) {
#pragma HLS UNROLL
      if (per_word == kLanes) {
        weights[t][m][n + k] = signed_code(word_byte(word, k), true, 8);
      } else if (k < kLanes / 2) {
        const uint32_t bits =
            word_byte(word, 2 * k % kLanes) | (static_cast<uint32_t>(word_byte(word, (2 * k + 1) % kLanes)) << 8);
        weights[t][m][n + k] = signed_code(bits, true, 16);
      }
    }
    n = n + per_word == kTn ? 0 : n + per_word;
    m = n != 0 ? m : (m + 1 == kTm ? 0 : m + 1);
    t = n != 0 || m != 0 ? t : t + 1;
  }
}

YHW_STAGE void start_sums(const ChannelTable& table, int pixels, SumBuffer& sums) {
#pragma HLS INLINE off
start_pixel:
  for (int p = 0; p < pixels; ++p) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = kAccWords
#pragma HLS PIPELINE II = 1
    for (int m = 0; m < kTm; ++m) {
#pragma HLS UNROLL
      sums[p][m] = table.bias[m];
    }
  }
}

// Adds the products of one input tile to the accumulators of a spatial tile. record_fits: tile_h * tile_w <= kAccWords,
// and the region fits the input buffer.
YHW_STAGE void accumulate_dense(const yhw_descriptor_t& d, const InputBuffer& ifm, const WeightBuffer& weights,
                                const Region& region, int tile_h, int tile_w, SumBuffer& sums) {
#pragma HLS INLINE off
  const int pixels = tile_h * tile_w;
  const int steps = larger(pixels, kMinPixels);
  const int taps = d.size_h * d.size_w;
  int r = 0, s = 0;
dense_taps:
  for (int t = 0; t < taps; ++t) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = kMaxTaps
    int y = 0, x = 0;
  dense_pixels:
    for (int p = 0; p < steps; ++p) {
#pragma HLS LOOP_TRIPCOUNT min = kMinPixels max = kAccWords
#pragma HLS PIPELINE II = 1
#pragma HLS DEPENDENCE variable = sums type = inter direction = RAW distance = 16 true
      if (p < pixels) {
        const int row = y * d.stride_h + r * d.dilation_h, col = x * d.stride_w + s * d.dilation_w;
        data_t codes[kTn];
#pragma HLS ARRAY_PARTITION variable = codes complete
        for (int n = 0; n < kTn; ++n) {
#pragma HLS UNROLL
          codes[n] = ifm[row % kRowBanks][buffer_word(region, row, col)][n];
        }
        for (int m = 0; m < kTm; ++m) {
#pragma HLS UNROLL
          acc_t sum = sums[p][m];
          for (int n = 0; n < kTn; ++n) {
#pragma HLS UNROLL
            sum += multiply(codes[n], weights[t][m][n]);
          }
          sums[p][m] = sum;
        }
        x = x + 1 == tile_w ? 0 : x + 1;
        y = x == 0 ? y + 1 : y;
      }
    }
    s = s + 1 == d.size_w ? 0 : s + 1;
    r = s == 0 ? r + 1 : r;
  }
}

// A spatial tile of the output: its first pixel and its size.
struct OutputTile {
  int y, x, h, w;
};

YHW_HD OutputTile output_tile(const yhw_descriptor_t& d, int y, int x) {
  OutputTile tile = {y, x, smaller(d.tile_h, d.out_h - y), smaller(d.tile_w, d.out_w - x)};
  return tile;
}

// Requantises and writes the first `lanes` accumulators of every pixel of a spatial tile, one burst per row.
YHW_STAGE void store_tile(const Store& store, const MapPort& out, const ChannelTable& table, int channel, int lanes,
                          const OutputTile& tile, const SumBuffer& sums, word_t* memory) {
#pragma HLS INLINE off
  const int pieces = divide_up(smaller(lanes, store.channels - channel), kLanes);
  const int words = tile.w * piece_words(out);
store_pieces:
  for (int piece = 0; piece < pieces; ++piece) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = kOutputPieces
    const int lane = piece * kLanes;
  store_rows:
    for (int y = 0; y < tile.h; ++y) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = kAccWords
      const int pixel = (tile.y + y) * out.w + tile.x;
      const int first = piece_index(out, channel / kLanes + piece, pixel);
    store_words:
      for (int i = 0; i < words; ++i) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = kTileRowWords
#pragma HLS PIPELINE II = 1
        const int x = word_piece(out, i);
        acc_t acc[kLanes];
        int32_t shift[kLanes];
#pragma HLS ARRAY_PARTITION variable = acc complete
#pragma HLS ARRAY_PARTITION variable = shift complete
        for (int k = 0; k < kLanes; ++k) {
#pragma HLS UNROLL
          acc[k] = sums[y * tile.w + x][lane + k];
          shift[k] = table.shift[lane + k];
        }
        memory[first + i] = output_word(store, out, channel + lane, pixel + x, word_part(out, i), acc, shift);
      }
    }
  }
}

}  // namespace yhw

#endif  // YHW_CONV_H_
