// SPDX-License-Identifier: Apache-2.0
// Moving codes: channels into another map (upsample, concat and slice at any channel), and pixels to channels (reorg).
// Rows of the sources are read into banks of the input buffer first; then the output row is composed and written.
#ifndef YHW_COPY_H_
#define YHW_COPY_H_

#include "yhw_elementwise.h"

namespace yhw {

// What banks of the input buffer hold while a row is copied.
enum CopyBank { kLowBank = 0, kHighBank = 1, kOldBank = 2 };

// How the lanes of an output block are filled, see `run_copy`.
struct CopyLanes {
  int source_lane;  // of output lane 0
  int first, last;  // output lanes [first, last) are copied; those before are kept, those behind become 0
};

// Writes pieces from a row of source pieces, each repeated `repeat` times, the first one from repetition `phase` on.
YHW_STAGE void copy_segment(const MapPort& out, const Segment& at, const CopyLanes& lanes, int repeat, int phase,
                            const InputBuffer& ifm, word_t* memory) {
#pragma HLS INLINE off
  const int first = piece_index(out, at.channel / kLanes, at.pixel);
  const int words = at.pieces * piece_words(out);
  int source = 0, turn = phase;
copy_words:
  for (int i = 0; i < words; ++i) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = kLineWords
#pragma HLS PIPELINE II = 1
    const int part = word_part(out, i);
    word_t word = word_t();
    for (int k = 0; k < kLanes; ++k) {
#pragma HLS UNROLL
      const int lane = lanes.source_lane + k;
      const data_t low = ifm[kLowBank][source][lane % kLanes], high = ifm[kHighBank][source][lane % kLanes];
      const data_t old = ifm[kOldBank][word_piece(out, i)][k];
      if (holds_lane(out, part, k) && k < lanes.last) {
        const data_t code = k < lanes.first ? old : (lane < kLanes ? low : high);
        set_word_code(out, k, static_cast<int32_t>(code), &word);
      }
    }
    memory[first + i] = word;
    if (part + 1 == piece_words(out)) {
      turn = turn + 1 == repeat ? 0 : turn + 1;
      source = turn == 0 ? source + 1 : source;
    }
  }
}

// out[out_channel + c][y][x] = in[in_channel + c][y / stride][x / stride] for c in [0, out_c). Lanes before out_channel
// in the first word are kept (an earlier copy wrote them), lanes behind the last channel become 0. The distance between
// input and output lane is the same for all channels, so a word takes its codes from at most two input words.
YHW_STAGE void run_copy(const yhw_descriptor_t& d, InputBuffer& ifm, word_t* memory) {
#pragma HLS INLINE off
  const MapPort in = input_port(d, 0), out = output_port(d);
  const int first = d.out_channel, last = d.out_channel + d.out_c;  // output channels [first, last)
  const int in_blocks = divide_up(d.in_c, kLanes);
  // Not enlarged, a block is one run of pieces.
  const int rows = d.stride == 1 ? 1 : d.out_h, cols = d.stride == 1 ? d.out_h * d.out_w : d.out_w;
copy_blocks:
  for (int block = first / kLanes; block * kLanes < last; ++block) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
    // Input channel of lane 0; negative where the first lanes are not copied.
    const int source = block * kLanes - first + d.in_channel;
    const int source_block = source >= 0 ? source / kLanes : -((kLanes - 1 - source) / kLanes);
    const CopyLanes lanes = {source - source_block * kLanes, larger(0, first - block * kLanes),
                             smaller(kLanes, last - block * kLanes)};
  copy_rows:
    for (int y = 0; y < rows; ++y) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 208
    copy_segments:
      for (int x = 0; x < cols; x += kBankWords) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 128
        const Segment at = {block * kLanes, y * cols + x, smaller(kBankWords, cols - x)};
        const int phase = x % d.stride;
        const int from = y / d.stride * d.in_w + x / d.stride, pieces = divide_up(phase + at.pieces, d.stride);
        if (source_block >= 0) {
          load_pieces(memory, in, piece_index(in, source_block, from), pieces, Place{kLowBank, 0, 0}, ifm);
        }
        if (lanes.source_lane != 0 && source_block + 1 < in_blocks) {
          load_pieces(memory, in, piece_index(in, source_block + 1, from), pieces, Place{kHighBank, 0, 0}, ifm);
        }
        if (lanes.first > 0) {
          load_pieces(memory, out, piece_index(out, block, at.pixel), at.pieces, Place{kOldBank, 0, 0}, ifm);
        }
        copy_segment(out, at, lanes, d.stride, phase, ifm, memory);
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

// Reads the codes of a row of output pieces one by one into bank 0; the lanes behind the last channel become 0. Every
// code lies elsewhere, so there is no burst; four cycles per code let the tool share the dividers of the index map.
YHW_STAGE void gather_codes(const yhw_descriptor_t& d, const word_t* memory, const Segment& at, InputBuffer& ifm) {
#pragma HLS INLINE off
  const MapPort in = input_port(d, 0);
  int x = at.pixel % d.out_w, piece = 0, k = 0;
  const int y = at.pixel / d.out_w;
reorg_codes:
  for (int i = 0; i < at.pieces * kLanes; ++i) {
#pragma HLS LOOP_TRIPCOUNT min = kLanes max = kBankCodes
#pragma HLS PIPELINE II = 4
    data_t code = 0;
    if (at.channel + k < d.out_c) {
      const Position from = reorg_source(d, Position{at.channel + k, y, x});
      const int lane = from.c % kLanes;
      const int index = piece_index(in, from.c / kLanes, from.y * in.w + from.x);
      code = word_code(in, memory[index + (piece_words(in) == 2 && 2 * lane >= kLanes ? 1 : 0)], lane);
    }
    ifm[0][piece][k] = code;
    k = k + 1 == kLanes ? 0 : k + 1;
    if (k == 0) {
      ++piece;
      ++x;
    }
  }
}

YHW_STAGE void run_reorg(const yhw_descriptor_t& d, InputBuffer& ifm, word_t* memory) {
#pragma HLS INLINE off
  const MapPort out = output_port(d);
reorg_blocks:
  for (int channel = 0; channel < d.out_c; channel += kLanes) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
    const CopyLanes lanes = {0, 0, smaller(kLanes, d.out_c - channel)};
  reorg_rows:
    for (int y = 0; y < d.out_h; ++y) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 208
    reorg_segments:
      for (int x = 0; x < d.out_w; x += kBankWords) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 2
        const Segment at = {channel, y * d.out_w + x, smaller(kBankWords, d.out_w - x)};
        gather_codes(d, memory, at, ifm);
        copy_segment(out, at, lanes, 1, 0, ifm, memory);
      }
    }
  }
}

}  // namespace yhw

#endif  // YHW_COPY_H_
