// SPDX-License-Identifier: Apache-2.0
// The input buffer and how codes get into it. A loop that reads memory does nothing else with it and takes word after
// word, so that the tool can make it one burst.
#ifndef YHW_WINDOW_H_
#define YHW_WINDOW_H_

#include "yhw_store.h"

namespace yhw {

// Words of TN codes. Row r of a tile is in bank r % kRowBanks, so one column of a depthwise window is read at once.
typedef data_t InputBuffer[kRowBanks][kBankWords][kTn];

// The part of the input that a tile of outputs needs; rows and columns may lie outside of the map.
// record_fits: divide_up(rows, kRowBanks) * cols <= kBankWords.
struct Region {
  int y, x;  // of the first row and column in the map, negative in the padding
  int rows, cols;
};

YHW_HD int buffer_word(const Region& region, int row, int col) { return (row / kRowBanks) * region.cols + col; }

YHW_HD Region input_region(const yhw_descriptor_t& d, int oy, int ox, int tile_h, int tile_w) {
  Region region = {oy * d.stride_h - d.pad_h, ox * d.stride_w - d.pad_w,
                   (tile_h - 1) * d.stride_h + d.dilation_h * (d.size_h - 1) + 1,
                   (tile_w - 1) * d.stride_w + d.dilation_w * (d.size_w - 1) + 1};
  return region;
}

// Where codes go in the input buffer.
struct Place {
  int bank, word, lane;
};

// Reads `pieces` pieces of a map that follow each other in memory, `first` is the index of the first word.
YHW_STAGE void load_pieces(const word_t* memory, const MapPort& map, int first, int pieces, Place to,
                           InputBuffer& ifm) {
#pragma HLS INLINE off
  const int words = pieces * piece_words(map);
load_words:
  for (int i = 0; i < words; ++i) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = kLineWords
#pragma HLS PIPELINE II = 1
    const word_t word = memory[first + i];
    for (int k = 0; k < kLanes; ++k) {
#pragma HLS UNROLL
      if (holds_lane(map, word_part(map, i), k)) {
        ifm[to.bank][to.word + word_piece(map, i)][to.lane + k] = word_code(map, word, k);
      }
    }
  }
}

// Reads pixels of an image whose pixels take fewer than L bytes: several share a word. The lanes behind them become 0.
YHW_STAGE void load_pixels(const word_t* memory, const MapPort& map, int first, int pixels, Place to,
                           InputBuffer& ifm) {
#pragma HLS INLINE off
  word_t line[kBankWords];  // kImageLanes < L here, so `pixels` <= kBankWords take at most kBankWords / 2 + 1 words
  const uint32_t address = map.offset + static_cast<uint32_t>(first) * kImageLanes;
  const int index = static_cast<int>(address / kLanes);
  const int start = static_cast<int>(address % kLanes);
  const int words = divide_up(start + pixels * kImageLanes, kLanes);
load_line:
  for (int i = 0; i < words; ++i) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = kBankWords
#pragma HLS PIPELINE II = 1
    line[i] = memory[index + i];
  }
unpack_pixels:
  for (int p = 0; p < pixels; ++p) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = kBankWords
#pragma HLS PIPELINE II = 1
    const int at = start + p * kImageLanes;
    const word_t word = line[at / kLanes];
    for (int k = 0; k < kLanes; ++k) {
#pragma HLS UNROLL
      ifm[to.bank][to.word + p][to.lane + k] =
          k < kImageLanes ? signed_code(word_byte(word, at % kLanes + k % kImageLanes), map.is_signed, 8) : 0;
    }
  }
}

// Pieces of zeros.
YHW_STAGE void clear_pieces(int pieces, Place to, InputBuffer& ifm) {
#pragma HLS INLINE off
clear_words:
  for (int i = 0; i < pieces; ++i) {
#pragma HLS LOOP_TRIPCOUNT min = 0 max = kBankWords
#pragma HLS PIPELINE II = 1
    for (int k = 0; k < kLanes; ++k) {
#pragma HLS UNROLL
      ifm[to.bank][to.word + i][to.lane + k] = 0;
    }
  }
}

// Loads `pieces` pieces of L channels, the first one at `block`, of a region; codes outside of the map are 0.
YHW_STAGE void load_region(const word_t* memory, const MapPort& map, int block, int pieces, const Region& region,
                           InputBuffer& ifm) {
#pragma HLS INLINE off
  const int blocks = divide_up(map.c, kLanes);
  // Columns [left, right) of the region lie inside of the map.
  const int left = smaller(region.cols, larger(0, -region.x));
  const int right = larger(left, smaller(region.cols, map.w - region.x));
load_blocks:
  for (int p = 0; p < pieces; ++p) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = kInputPieces
  load_rows:
    for (int r = 0; r < region.rows; ++r) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = kIfmWords
      const int y = region.y + r;
      const bool inside = block + p < blocks && y >= 0 && y < map.h;
      const int begin = inside ? left : region.cols, end = inside ? right : region.cols;
      Place to = {r % kRowBanks, buffer_word(region, r, 0), p * kLanes};
      clear_pieces(begin, to, ifm);
      to.word += begin;
      if (begin < end) {
        const int pixel = y * map.w + region.x + begin;
        if (map.lanes != kLanes) {
          load_pixels(memory, map, pixel, end - begin, to, ifm);
        } else {
          load_pieces(memory, map, piece_index(map, block + p, pixel), end - begin, to, ifm);
        }
      }
      to.word += end - begin;
      clear_pieces(region.cols - end, to, ifm);
    }
  }
}

}  // namespace yhw

#endif  // YHW_WINDOW_H_
