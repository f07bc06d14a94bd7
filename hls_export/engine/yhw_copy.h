// SPDX-License-Identifier: Apache-2.0
// Moving codes: channels into another map (upsample, concat and slice at any channel), and pixels to channels (reorg).
#ifndef YHW_COPY_H_
#define YHW_COPY_H_

#include "yhw_store.h"

namespace yhw {

// out[out_channel + c][y][x] = in[in_channel + c][y / stride][x / stride] for c in [0, out_c). Lanes before out_channel
// in the first word are kept (an earlier copy wrote them), lanes behind the last channel become 0. The distance between
// input and output lane is the same for all channels, so a word takes its codes from at most two input words.
YHW_STAGE void run_copy(const yhw_descriptor_t& d, word_t* memory) {
#pragma HLS INLINE off
  const MapPort in = input_port(d, 0), out = output_port(d);
  const int first = d.out_channel, last = d.out_channel + d.out_c;  // output channels [first, last)
  const int in_blocks = (d.in_c + kLanes - 1) / kLanes;
copy_blocks:
  for (int block = first / kLanes; block * kLanes < last; ++block) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
    // Input channel of lane 0; may be negative where the first lanes are not copied.
    const int source = block * kLanes - first + d.in_channel;
    const int source_block = source >= 0 ? source / kLanes : -((kLanes - 1 - source) / kLanes);
    const int source_lane = source - source_block * kLanes;
    const bool keep = block * kLanes < first;
  copy_rows:
    for (int y = 0; y < d.out_h; ++y) {
#pragma HLS LOOP_TRIPCOUNT min = 13 max = 208
    copy_columns:
      for (int x = 0; x < d.out_w; ++x) {
#pragma HLS LOOP_TRIPCOUNT min = 13 max = 208
#pragma HLS PIPELINE II = 4
        const int sy = y / d.stride, sx = x / d.stride;
        data_t low[kLanes] = {}, high[kLanes] = {}, old[kLanes] = {};
        int32_t codes[kLanes];
#pragma HLS ARRAY_PARTITION variable = low complete
#pragma HLS ARRAY_PARTITION variable = high complete
#pragma HLS ARRAY_PARTITION variable = old complete
#pragma HLS ARRAY_PARTITION variable = codes complete
        if (source_block >= 0) {
          read_piece(memory, in, source_block, sy, sx, low);
        }
        if (source_lane != 0 && source_block + 1 < in_blocks) {
          read_piece(memory, in, source_block + 1, sy, sx, high);
        }
        if (keep) {
          read_piece(memory, out, block, y, x, old);
        }
        for (int i = 0; i < kLanes; ++i) {
#pragma HLS UNROLL
          const int channel = block * kLanes + i;
          const int lane = source_lane + i;
          const data_t moved = lane < kLanes ? low[lane % kLanes] : high[lane % kLanes];
          codes[i] =
              channel < first ? static_cast<int32_t>(old[i]) : (channel < last ? static_cast<int32_t>(moved) : 0);
        }
        write_piece(memory, out, block, y, x, codes);
      }
    }
  }
}

// Position of a code in a map, channel first.
struct Position {
  int c, y, x;
};

// Where the code of output position `to` comes from, for block size s; see docs/numerics.md, reorg.
YHW_HD Position reorg_source(const yhw_descriptor_t& d, Position to) {
  const int s = d.stride;
  Position from;
  if (d.flags & YHW_REORG_REVERSE) {
    const int part = (to.y % s) * s + to.x % s;
    from.c = part * d.out_c + to.c;
    from.y = to.y / s;
    from.x = to.x / s;
    return from;
  }
  int c = d.in_c, h = d.in_h, w = d.in_w;
  if (d.flags & YHW_REORG_DARKNET) {
    // The result [C, H, W] of the plain map on [C / s^2, H s, W s], read as [C s^2, H / s, W / s].
    const int flat = (to.c * d.out_h + to.y) * d.out_w + to.x;
    to.c = flat / (h * w);
    to.y = flat / w % h;
    to.x = flat % w;
    c = c / (s * s);
    h = h * s;
    w = w * s;
  }
  const int part = to.c / c;
  from.c = to.c - part * c;
  from.y = to.y * s + part / s;
  from.x = to.x * s + part % s;
  if (d.flags & YHW_REORG_DARKNET) {
    const int flat = (from.c * h + from.y) * w + from.x;
    from.c = flat / (d.in_h * d.in_w);
    from.y = flat / d.in_w % d.in_h;
    from.x = flat % d.in_w;
  }
  return from;
}

YHW_STAGE void run_reorg(const yhw_descriptor_t& d, word_t* memory) {
#pragma HLS INLINE off
  const MapPort in = input_port(d, 0), out = output_port(d);
reorg_blocks:
  for (int channel = 0; channel < d.out_c; channel += kLanes) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
  reorg_rows:
    for (int y = 0; y < d.out_h; ++y) {
#pragma HLS LOOP_TRIPCOUNT min = 13 max = 104
    reorg_columns:
      for (int x = 0; x < d.out_w; ++x) {
#pragma HLS LOOP_TRIPCOUNT min = 13 max = 104
        int32_t codes[kLanes];
#pragma HLS ARRAY_PARTITION variable = codes complete
      reorg_lanes:
        for (int i = 0; i < kLanes; ++i) {
#pragma HLS PIPELINE II = 1
          codes[i] = 0;
          if (channel + i < d.out_c) {
            const Position to = {channel + i, y, x};
            const Position from = reorg_source(d, to);
            data_t piece[kLanes];
            read_piece(memory, in, from.c / kLanes, from.y, from.x, piece);
            codes[i] = static_cast<int32_t>(piece[from.c % kLanes]);
          }
        }
        write_piece(memory, out, channel / kLanes, y, x, codes);
      }
    }
  }
}

}  // namespace yhw

#endif  // YHW_COPY_H_
