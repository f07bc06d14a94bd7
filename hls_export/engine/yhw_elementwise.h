// SPDX-License-Identifier: Apache-2.0
// Operations on one pixel at a time, block by block, straight from memory to memory: add and multiply.
#ifndef YHW_ELEMENTWISE_H_
#define YHW_ELEMENTWISE_H_

#include "yhw_store.h"

namespace yhw {

// acc = sum of the inputs, each shifted left to the common fraction bits.
YHW_STAGE void run_add(const yhw_descriptor_t& d, const Store& store, word_t* memory) {
#pragma HLS INLINE off
  const MapPort out = output_port(d);
  MapPort in[YHW_MAX_INPUTS];
  for (int i = 0; i < YHW_MAX_INPUTS; ++i) {
    in[i] = input_port(d, i);
  }
add_blocks:
  for (int channel = 0; channel < d.out_c; channel += kLanes) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
  add_rows:
    for (int y = 0; y < d.out_h; ++y) {
#pragma HLS LOOP_TRIPCOUNT min = 13 max = 208
    add_columns:
      for (int x = 0; x < d.out_w; ++x) {
#pragma HLS LOOP_TRIPCOUNT min = 13 max = 208
        acc_t sums[kLanes];
        int32_t shift[kLanes];
#pragma HLS ARRAY_PARTITION variable = sums complete
#pragma HLS ARRAY_PARTITION variable = shift complete
        for (int k = 0; k < kLanes; ++k) {
#pragma HLS UNROLL
          sums[k] = 0;
          shift[k] = d.shift;
        }
      add_inputs:
        for (int i = 0; i < d.num_inputs; ++i) {
#pragma HLS LOOP_TRIPCOUNT min = 2 max = 4
#pragma HLS PIPELINE II = 1
          data_t codes[kLanes];
#pragma HLS ARRAY_PARTITION variable = codes complete
          read_piece(memory, in[i], channel / kLanes, y, x, codes);
          for (int k = 0; k < kLanes; ++k) {
#pragma HLS UNROLL
            sums[k] += shift_left(static_cast<acc_t>(codes[k]), static_cast<int>(d.in_shift[i]));
          }
        }
        store_piece(store, out, channel, y, x, sums, shift, memory);
      }
    }
  }
}

// acc = map * factors; the factors have one value per channel, one per pixel, or the map's own shape.
YHW_STAGE void run_mul(const yhw_descriptor_t& d, const Store& store, word_t* memory) {
#pragma HLS INLINE off
  const MapPort out = output_port(d), in = input_port(d, 0);
  MapPort factors = input_port(d, 1);
  factors.h = d.factor_h;
  factors.w = d.factor_w;
mul_blocks:
  for (int channel = 0; channel < d.out_c; channel += kLanes) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
    const int factor_block = d.factor_c == 1 ? 0 : channel / kLanes;
  mul_rows:
    for (int y = 0; y < d.out_h; ++y) {
#pragma HLS LOOP_TRIPCOUNT min = 7 max = 104
    mul_columns:
      for (int x = 0; x < d.out_w; ++x) {
#pragma HLS LOOP_TRIPCOUNT min = 7 max = 104
#pragma HLS PIPELINE II = 2
        data_t codes[kLanes], factor[kLanes];
        acc_t products[kLanes];
        int32_t shift[kLanes];
#pragma HLS ARRAY_PARTITION variable = codes complete
#pragma HLS ARRAY_PARTITION variable = factor complete
#pragma HLS ARRAY_PARTITION variable = products complete
#pragma HLS ARRAY_PARTITION variable = shift complete
        read_piece(memory, in, channel / kLanes, y, x, codes);
        read_piece(memory, factors, factor_block, d.factor_h == 1 ? 0 : y, d.factor_w == 1 ? 0 : x, factor);
        for (int k = 0; k < kLanes; ++k) {
#pragma HLS UNROLL
          products[k] = static_cast<acc_t>(codes[k]) * static_cast<acc_t>(factor[d.factor_c == 1 ? 0 : k]);
          shift[k] = d.shift;
        }
        store_piece(store, out, channel, y, x, products, shift, memory);
      }
    }
  }
}

}  // namespace yhw

#endif  // YHW_ELEMENTWISE_H_
