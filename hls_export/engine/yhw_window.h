// SPDX-License-Identifier: Apache-2.0
// The input buffer shared by convolutions and max pools, and how a tile of a map gets into it.
#ifndef YHW_WINDOW_H_
#define YHW_WINDOW_H_

#include "yhw_store.h"

namespace yhw {

// Words of TN codes. Row r of a tile is in bank r % kRowBanks, so one column of a depthwise window is read at once.
struct InputBuffer {
  data_t codes[kRowBanks][kBankWords][kTn];
};

// The part of the input that a tile of outputs needs; rows and columns may lie outside of the map.
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

// Loads `pieces` pieces of L channels, the first one at `block`, of a region; codes outside of the map are `fill`.
YHW_STAGE void load_region(const word_t* memory, const MapPort& map, int map_c, int block, int pieces,
                           const Region& region, int fill, InputBuffer* buffer) {
#pragma HLS INLINE off
  const int blocks = (map_c + kLanes - 1) / kLanes;
load_pieces:
  for (int p = 0; p < pieces; ++p) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 8
  load_rows:
    for (int r = 0; r < region.rows; ++r) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
    load_columns:
      for (int c = 0; c < region.cols; ++c) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 418
#pragma HLS PIPELINE II = 1
        const int y = region.y + r, x = region.x + c;
        data_t codes[kLanes];
#pragma HLS ARRAY_PARTITION variable = codes complete
        if (y < 0 || y >= map.h || x < 0 || x >= map.w) {
          for (int i = 0; i < kLanes; ++i) {
#pragma HLS UNROLL
            codes[i] = fill;
          }
        } else if (block + p >= blocks) {
          for (int i = 0; i < kLanes; ++i) {
#pragma HLS UNROLL
            codes[i] = 0;
          }
        } else if (map.lanes != kLanes) {
          read_pixel(memory, map, y, x, codes);
        } else {
          read_piece(memory, map, block + p, y, x, codes);
        }
        for (int i = 0; i < kLanes; ++i) {
#pragma HLS UNROLL
          buffer->codes[r % kRowBanks][buffer_word(region, r, c)][p * kLanes + i] = codes[i];
        }
      }
    }
  }
}

}  // namespace yhw

#endif  // YHW_WINDOW_H_
