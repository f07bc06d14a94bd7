// SPDX-License-Identifier: Apache-2.0
// Max pooling from the input buffer, and the average of a whole map straight from memory.
#ifndef YHW_POOL_H_
#define YHW_POOL_H_

#include "yhw_conv.h"

namespace yhw {

// Largest code of every window of a tile; positions outside of the map take no part. record_fits: the region fits the
// input buffer, tile_h * tile_w <= kAccWords.
YHW_STAGE void max_of_windows(const yhw_descriptor_t& d, const InputBuffer& ifm, const Region& region, int tile_h,
                              int tile_w, SumBuffer& sums) {
#pragma HLS INLINE off
  const int pixels = tile_h * tile_w;
  const int steps = larger(pixels, kMinPixels);
  const int taps = d.size_h * d.size_w;
  int r = 0, s = 0;
pool_taps:
  for (int t = 0; t < taps; ++t) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = kIfmWords
    int y = 0, x = 0;
  pool_pixels:
    for (int p = 0; p < steps; ++p) {
#pragma HLS LOOP_TRIPCOUNT min = kMinPixels max = kAccWords
#pragma HLS PIPELINE II = 1
#pragma HLS DEPENDENCE variable = sums type = inter direction = RAW distance = 16 true
      if (p < pixels) {
        const int row = y * d.stride_h + r, col = x * d.stride_w + s;
        const int map_y = region.y + row, map_x = region.x + col;
        const bool inside = map_y >= 0 && map_y < d.in_h && map_x >= 0 && map_x < d.in_w;
        for (int m = 0; m < kChannels; ++m) {
#pragma HLS UNROLL
          const acc_t code = ifm[row % kRowBanks][buffer_word(region, row, col)][m];
          const acc_t best = t == 0 ? acc_t(-(1 << 16)) : sums[p][m];
          sums[p][m] = inside && code > best ? code : best;
        }
        x = x + 1 == tile_w ? 0 : x + 1;
        y = x == 0 ? y + 1 : y;
      }
    }
    s = s + 1 == d.size_w ? 0 : s + 1;
    r = s == 0 ? r + 1 : r;
  }
}

// Writes the codes of a tile as they are, one burst per row.
YHW_STAGE void store_codes(const MapPort& out, int channel, const OutputTile& tile, const SumBuffer& sums,
                           word_t* memory) {
#pragma HLS INLINE off
  const int pieces = divide_up(smaller(kChannels, out.c - channel), kLanes);
  const int words = tile.w * piece_words(out);
code_pieces:
  for (int piece = 0; piece < pieces; ++piece) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = kOutputPieces
    const int lane = piece * kLanes;
  code_rows:
    for (int y = 0; y < tile.h; ++y) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = kAccWords
      const int first = piece_index(out, channel / kLanes + piece, (tile.y + y) * out.w + tile.x);
    code_words:
      for (int i = 0; i < words; ++i) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = kTileRowWords
#pragma HLS PIPELINE II = 1
        word_t word = word_t();
        for (int k = 0; k < kLanes; ++k) {
#pragma HLS UNROLL
          if (holds_lane(out, word_part(out, i), k) && channel + lane + k < out.c) {
            set_word_code(out, k, static_cast<int32_t>(sums[y * tile.w + word_piece(out, i)][lane + k]), &word);
          }
        }
        memory[first + i] = word;
      }
    }
  }
}

// Sums of a block's codes; one burst.
YHW_STAGE void sum_block(const word_t* memory, const MapPort& in, int block, acc_t sums[kLanes]) {
#pragma HLS INLINE off
  const int first = piece_index(in, block, 0);
  const int words = in.h * in.w * piece_words(in);
  for (int k = 0; k < kLanes; ++k) {
#pragma HLS UNROLL
    sums[k] = 0;
  }
average_words:
  for (int i = 0; i < words; ++i) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 65536
#pragma HLS PIPELINE II = 1
    const word_t word = memory[first + i];
    for (int k = 0; k < kLanes; ++k) {
#pragma HLS UNROLL
      if (holds_lane(in, word_part(in, i), k)) {
        sums[k] += word_code(in, word, k);
      }
    }
  }
}

YHW_STAGE void run_avgpool(const yhw_descriptor_t& d, const Store& store, word_t* memory) {
#pragma HLS INLINE off
  const MapPort in = input_port(d, 0), out = output_port(d);
average_blocks:
  for (int channel = 0; channel < d.out_c; channel += kLanes) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
    acc_t sums[kLanes];
    int32_t shift[kLanes];
#pragma HLS ARRAY_PARTITION variable = sums complete
#pragma HLS ARRAY_PARTITION variable = shift complete
    for (int k = 0; k < kLanes; ++k) {
#pragma HLS UNROLL
      shift[k] = d.shift;
    }
    sum_block(memory, in, channel / kLanes, sums);
  average_parts:
    for (int part = 0; part < piece_words(out); ++part) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = kMaxCodeBytes
      memory[piece_index(out, channel / kLanes, 0) + part] = output_word(store, out, channel, 0, part, sums, shift);
    }
  }
}

}  // namespace yhw

#endif  // YHW_POOL_H_
