// SPDX-License-Identifier: Apache-2.0
// Max pooling from the input buffer, and the average of a whole map straight from memory.
#ifndef YHW_POOL_H_
#define YHW_POOL_H_

#include "yhw_conv.h"

namespace yhw {

// Largest code of every window of a tile; positions outside of the map take no part.
YHW_STAGE void max_of_windows(const yhw_descriptor_t& d, const InputBuffer& ifm, const Region& region, int tile_h,
                              int tile_w, Accumulators* acc) {
#pragma HLS INLINE off
  const int pixels = tile_h * tile_w;
  const int steps = pixels < kMinPixels ? kMinPixels : pixels;
  const int taps = d.size_h * d.size_w;
  int r = 0, s = 0;
pool_taps:
  for (int t = 0; t < taps; ++t) {
#pragma HLS LOOP_TRIPCOUNT min = 4 max = 169
    int y = 0, x = 0;
  pool_pixels:
    for (int p = 0; p < steps; ++p) {
#pragma HLS LOOP_TRIPCOUNT min = 16 max = 1024
#pragma HLS PIPELINE II = 1
#pragma HLS DEPENDENCE variable = acc->sums inter false
      if (p < pixels) {
        const int row = y * d.stride_h + r, col = x * d.stride_w + s;
        const int map_y = region.y + row, map_x = region.x + col;
        const bool inside = map_y >= 0 && map_y < d.in_h && map_x >= 0 && map_x < d.in_w;
        for (int m = 0; m < kChannels; ++m) {
#pragma HLS UNROLL
          const acc_t code = ifm.codes[row % kRowBanks][buffer_word(region, row, col)][m];
          const acc_t best = t == 0 ? acc_t(-(1 << 16)) : acc->sums[p][m];
          acc->sums[p][m] = inside && code > best ? code : best;
        }
        x = x + 1 == tile_w ? 0 : x + 1;
        y = x == 0 ? y + 1 : y;
      }
    }
    s = s + 1 == d.size_w ? 0 : s + 1;
    r = s == 0 ? r + 1 : r;
  }
}

// Writes the codes of a tile as they are.
YHW_STAGE void store_codes(const MapPort& out, int channels, int channel, int oy, int ox, int tile_h, int tile_w,
                           const Accumulators& acc, word_t* memory) {
#pragma HLS INLINE off
pool_pieces:
  for (int first = 0; first < kChannels; first += kLanes) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 8
    if (channel + first >= channels) {
      break;
    }
  pool_rows:
    for (int y = 0; y < tile_h; ++y) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
    pool_columns:
      for (int x = 0; x < tile_w; ++x) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 416
#pragma HLS PIPELINE II = 1
        int32_t codes[kLanes];
#pragma HLS ARRAY_PARTITION variable = codes complete
        for (int i = 0; i < kLanes; ++i) {
#pragma HLS UNROLL
          codes[i] = channel + first + i < channels ? static_cast<int32_t>(acc.sums[y * tile_w + x][first + i]) : 0;
        }
        write_piece(memory, out, (channel + first) / kLanes, oy + y, ox + x, codes);
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
    for (int i = 0; i < kLanes; ++i) {
#pragma HLS UNROLL
      sums[i] = 0;
      shift[i] = d.shift;
    }
  average_rows:
    for (int y = 0; y < d.in_h; ++y) {
#pragma HLS LOOP_TRIPCOUNT min = 7 max = 104
    average_columns:
      for (int x = 0; x < d.in_w; ++x) {
#pragma HLS LOOP_TRIPCOUNT min = 7 max = 104
#pragma HLS PIPELINE II = 1
        data_t codes[kLanes];
#pragma HLS ARRAY_PARTITION variable = codes complete
        read_piece(memory, in, channel / kLanes, y, x, codes);
        for (int i = 0; i < kLanes; ++i) {
#pragma HLS UNROLL
          sums[i] += codes[i];
        }
      }
    }
    store_piece(store, out, channel, 0, 0, sums, shift, memory);
  }
}

}  // namespace yhw

#endif  // YHW_POOL_H_
