// SPDX-License-Identifier: Apache-2.0
// A record from memory. Every field is taken from the word at its own offset in the struct: no union, no pointer cast,
// and the order cannot differ from yhw_descriptor.h. A test holds that no field is left out.
#ifndef YHW_FETCH_H_
#define YHW_FETCH_H_

#include "yhw_types.h"

namespace yhw {

#define YHW_WORD_OF(field) (offsetof(yhw_descriptor_t, field) / 4)
#define YHW_TAKE(field) d.field = words[YHW_WORD_OF(field)]
#define YHW_TAKE_FOUR(field)                    \
  for (int i = 0; i < YHW_MAX_INPUTS; ++i) {    \
    d.field[i] = words[YHW_WORD_OF(field) + i]; \
  }

YHW_HD yhw_descriptor_t descriptor_from_words(const int32_t words[YHW_DESCRIPTOR_WORDS]) {
  yhw_descriptor_t d;
  YHW_TAKE(magic);
  YHW_TAKE(op);
  YHW_TAKE(node);
  YHW_TAKE(flags);
  YHW_TAKE(in_c);
  YHW_TAKE(in_h);
  YHW_TAKE(in_w);
  YHW_TAKE(out_c);
  YHW_TAKE(out_h);
  YHW_TAKE(out_w);
  YHW_TAKE(size_h);
  YHW_TAKE(size_w);
  YHW_TAKE(stride_h);
  YHW_TAKE(stride_w);
  YHW_TAKE(dilation_h);
  YHW_TAKE(dilation_w);
  YHW_TAKE(pad_h);
  YHW_TAKE(pad_w);
  YHW_TAKE(stride);
  YHW_TAKE(tile_h);
  YHW_TAKE(tile_w);
  YHW_TAKE(num_inputs);
  YHW_TAKE_FOUR(in_offset)
  YHW_TAKE_FOUR(in_element_bytes)
  YHW_TAKE_FOUR(in_signed)
  YHW_TAKE_FOUR(in_shift)
  YHW_TAKE(in_lanes);
  YHW_TAKE(out_offset);
  YHW_TAKE(out_element_bytes);
  YHW_TAKE(in_channel);
  YHW_TAKE(out_channel);
  YHW_TAKE(factor_c);
  YHW_TAKE(factor_h);
  YHW_TAKE(factor_w);
  YHW_TAKE(param_offset);
  YHW_TAKE(param_bytes);
  YHW_TAKE(param_crc32);
  YHW_TAKE(weight_bytes);
  YHW_TAKE(tile_table_offset);
  YHW_TAKE(channel_table_offset);
  YHW_TAKE(table_offset);
  YHW_TAKE(shift);
  YHW_TAKE(mul_pos);
  YHW_TAKE(mul_neg);
  YHW_TAKE(shift_neg);
  YHW_TAKE(code_lo);
  YHW_TAKE(code_hi);
  YHW_TAKE(code_bits);
  YHW_TAKE(clamp_lo);
  YHW_TAKE(clamp_hi);
  YHW_TAKE(modes);
  YHW_TAKE(build);
  return d;
}

#undef YHW_TAKE_FOUR
#undef YHW_TAKE
#undef YHW_WORD_OF

YHW_STAGE yhw_descriptor_t load_descriptor(const int32_t* descriptors, int index) {
#pragma HLS INLINE off
  int32_t words[YHW_DESCRIPTOR_WORDS];
#pragma HLS ARRAY_PARTITION variable = words complete
load_record:
  for (int i = 0; i < YHW_DESCRIPTOR_WORDS; ++i) {
#pragma HLS PIPELINE II = 1
    words[i] = descriptors[index * YHW_DESCRIPTOR_WORDS + i];
  }
  return descriptor_from_words(words);
}

}  // namespace yhw

#endif  // YHW_FETCH_H_
