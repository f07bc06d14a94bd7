// SPDX-License-Identifier: Apache-2.0
// Operations on one pixel at a time: add and multiply. A block of L channels is one run of pieces in memory, in all
// maps alike, so it is cut into segments of kBankWords pieces whatever its rows are. A segment of every input is read
// into a row bank of the input buffer, each in one burst; then the results are computed and written in one burst.
//
// In place: a segment has been read in full, from all inputs, before the first word of it is written. The output may
// thus lie on an input at the same address or below it: what is written there was read in this segment or before.
#ifndef YHW_ELEMENTWISE_H_
#define YHW_ELEMENTWISE_H_

#include "yhw_window.h"

namespace yhw {

// A run of pieces of one block.
struct Segment {
  int channel, pixel, pieces;
};

// Computes and writes a segment; Operation::lane gives the accumulator of one lane of a piece in the buffer.
template <typename Operation>
YHW_STAGE void write_segment(const yhw_descriptor_t& d, const Store& store, const Segment& at, const InputBuffer& ifm,
                             word_t* memory) {
#pragma HLS INLINE off
  const MapPort out = output_port(d);
  const int first = piece_index(out, at.channel / kLanes, at.pixel);
  const int words = at.pieces * piece_words(out);
segment_words:
  for (int i = 0; i < words; ++i) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = kLineWords
#pragma HLS PIPELINE II = 1
    const int piece = word_piece(out, i);
    acc_t acc[kLanes];
    int32_t shift[kLanes];
#pragma HLS ARRAY_PARTITION variable = acc complete
#pragma HLS ARRAY_PARTITION variable = shift complete
    for (int k = 0; k < kLanes; ++k) {
#pragma HLS UNROLL
      acc[k] = Operation::lane(d, ifm, piece, k);
      shift[k] = d.shift;
    }
    memory[first + i] = output_word(store, out, at.channel, at.pixel + piece, word_part(out, i), acc, shift);
  }
}

// acc = sum of the inputs in banks 0, 1, ..., each shifted left to the common fraction bits.
struct SumOfInputs {
  YHW_HD acc_t lane(const yhw_descriptor_t& d, const InputBuffer& ifm, int piece, int k) {
#pragma HLS INLINE
    acc_t sum = 0;
    for (int input = 0; input < YHW_MAX_INPUTS; ++input) {
#pragma HLS UNROLL
      if (input < d.num_inputs) {
        sum += shift_left(static_cast<acc_t>(ifm[input][piece][k]), static_cast<int>(d.in_shift[input]));
      }
    }
    return sum;
  }
};

// acc = map in bank 0 * factors in bank 1: one factor per channel, one per pixel, or one for each of both.
struct MapTimesFactors {
  YHW_HD acc_t lane(const yhw_descriptor_t& d, const InputBuffer& ifm, int piece, int k) {
#pragma HLS INLINE
    const int place = d.factor_h * d.factor_w > 1 ? piece : 0;
    const data_t own = ifm[1][place][k], shared = ifm[1][place][0];
    return multiply_codes(ifm[0][piece][k], d.factor_c == 1 ? shared : own);
  }
};

YHW_STAGE void run_add(const yhw_descriptor_t& d, const Store& store, InputBuffer& ifm, word_t* memory) {
#pragma HLS INLINE off
  const int pixels = d.out_h * d.out_w;
add_blocks:
  for (int channel = 0; channel < d.out_c; channel += kLanes) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
  add_segments:
    for (int pixel = 0; pixel < pixels; pixel += kBankWords) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 128
      const Segment at = {channel, pixel, smaller(kBankWords, pixels - pixel)};
    add_inputs:
      for (int i = 0; i < d.num_inputs; ++i) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4
        const MapPort in = input_port(d, i);
        load_pieces(memory, in, piece_index(in, channel / kLanes, pixel), at.pieces, Place{i, 0, 0}, ifm);
      }
      write_segment<SumOfInputs>(d, store, at, ifm, memory);
    }
  }
}

YHW_STAGE void run_mul(const yhw_descriptor_t& d, const Store& store, InputBuffer& ifm, word_t* memory) {
#pragma HLS INLINE off
  const MapPort in = input_port(d, 0);
  MapPort factors = input_port(d, 1);
  factors.c = d.factor_c;
  factors.h = d.factor_h;
  factors.w = d.factor_w;
  const int pixels = d.out_h * d.out_w;
  const bool per_pixel = d.factor_h * d.factor_w > 1;
mul_blocks:
  for (int channel = 0; channel < d.out_c; channel += kLanes) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
    const int factor_block = d.factor_c == 1 ? 0 : channel / kLanes;
  mul_segments:
    for (int pixel = 0; pixel < pixels; pixel += kBankWords) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 128
      const Segment at = {channel, pixel, smaller(kBankWords, pixels - pixel)};
      load_pieces(memory, in, piece_index(in, channel / kLanes, pixel), at.pieces, Place{0, 0, 0}, ifm);
      load_pieces(memory, factors, piece_index(factors, factor_block, per_pixel ? pixel : 0), per_pixel ? at.pieces : 1,
                  Place{1, 0, 0}, ifm);
      write_segment<MapTimesFactors>(d, store, at, ifm, memory);
    }
  }
}

}  // namespace yhw

#endif  // YHW_ELEMENTWISE_H_
