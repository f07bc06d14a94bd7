// SPDX-License-Identifier: Apache-2.0
// Whether this build of the accelerator can run a record. Buffers, loop bounds and word lengths rely on what is checked
// here and are not checked again; what they rely on is named where they do. The parameters a record points to (tile
// table, channel table, weights) are not looked at: they carry a CRC.
#ifndef YHW_CHECK_H_
#define YHW_CHECK_H_

#include "yhw_types.h"

namespace yhw {

typedef long long check_t;  // holds the product of three dimensions and a few bits more

constexpr check_t kAddressable = check_t(1) << 32;
constexpr int kMaxDimension = 1 << 20;  // of a map in any direction, and of a window's parts

YHW_HD bool within(check_t value, check_t low, check_t high) { return low <= value && value <= high; }

// A map of whole pieces of `lanes` channels within 4 GiB; 16-bit codes need a build with more than 8 data bits.
YHW_HD bool map_fits(uint32_t offset, check_t c, check_t h, check_t w, int code_bytes, int lanes) {
  const check_t channels = (c + lanes - 1) / lanes * lanes;
  return within(c, 1, kMaxDimension) && within(h, 1, kMaxDimension) && within(w, 1, kMaxDimension) &&
         within(code_bytes, 1, kMaxCodeBytes) && offset % kLanes == 0 &&
         channels * h * w * code_bytes <= kAddressable - check_t(offset);
}

YHW_HD bool input_fits(const yhw_descriptor_t& d, int i) {
  return map_fits(d.in_offset[i], d.in_c, d.in_h, d.in_w, d.in_element_bytes[i], kLanes);
}

// Convolutions also read an image of up to kImageLanes channels, several pixels in a word.
YHW_HD bool image_fits(const yhw_descriptor_t& d) {
  return d.op == YHW_CONV && d.in_lanes == kImageLanes && d.in_c <= kImageLanes && d.in_element_bytes[0] == 1 &&
         map_fits(d.in_offset[0], d.in_c, d.in_h, d.in_w, 1, kImageLanes);
}

YHW_HD bool maps_fit(const yhw_descriptor_t& d) {
  if (!within(d.num_inputs, 1, YHW_MAX_INPUTS) || !(d.in_lanes == kLanes ? input_fits(d, 0) : image_fits(d))) {
    return false;
  }
  const bool copy = d.op == YHW_COPY;
  return (!copy || within(d.out_channel, 0, kMaxDimension)) && within(d.out_c, 1, kMaxDimension) &&
         map_fits(d.out_offset, d.out_c + (copy ? d.out_channel : 0), d.out_h, d.out_w, d.out_element_bytes, kLanes);
}

// A spatial tile fits the accumulators, and its input region the input buffer.
YHW_HD bool tile_fits(const yhw_descriptor_t& d) {
  if (!within(d.size_h, 1, kMaxDimension) || !within(d.size_w, 1, kMaxDimension) ||
      !within(d.stride_h, 1, kMaxDimension) || !within(d.stride_w, 1, kMaxDimension) ||
      !within(d.dilation_h, 1, kMaxDimension) || !within(d.dilation_w, 1, kMaxDimension) ||
      !within(d.pad_h, 0, kMaxDimension) || !within(d.pad_w, 0, kMaxDimension) || !within(d.tile_h, 1, kAccWords) ||
      !within(d.tile_w, 1, kAccWords)) {
    return false;
  }
  const check_t rows = check_t(d.tile_h - 1) * d.stride_h + check_t(d.dilation_h) * (d.size_h - 1) + 1;
  const check_t cols = check_t(d.tile_w - 1) * d.stride_w + check_t(d.dilation_w) * (d.size_w - 1) + 1;
  // The bounds of rows and cols keep their product in check_t.
  return check_t(d.tile_h) * d.tile_w <= kAccWords && rows <= kIfmWords && cols <= kBankWords &&
         (rows + kRowBanks - 1) / kRowBanks * cols <= kBankWords && check_t(d.out_h) * d.stride_h <= INT32_MAX / 2 &&
         check_t(d.out_w) * d.stride_w <= INT32_MAX / 2;
}

YHW_HD bool weights_fit(const yhw_descriptor_t& d) {
  const check_t taps = check_t(d.size_h) * d.size_w;
  if (!within(d.weight_bytes, 1, kMaxWeightBytes) || d.tile_table_offset % kLanes != 0 ||
      d.channel_table_offset % kLanes != 0) {
    return false;
  }
  if (d.op == YHW_CONV) {
    return taps <= kMaxTaps;
  }
  return d.size_h <= kMaxDepthwise && d.size_w <= kMaxDepthwise && d.dilation_h == 1 && d.dilation_w == 1 &&
         (taps + kTn - 1) / kTn <= kMaxTaps && d.in_c == d.out_c;
}

// Factors, shifts and formats of the step from accumulators to codes.
YHW_HD bool requant_fits(const yhw_descriptor_t& d) {
  const bool table = (d.flags & YHW_HAS_TABLE) != 0;
  const check_t factor = (check_t(1) << (kFactorBits - 1)) - 1;
  if (!within(d.mul_pos, -factor, factor) || !within(d.mul_neg, -factor, factor) ||
      !within(d.shift, kMinShift, kMaxShift) || !within(d.shift_neg, kMinShift, kMaxShift) ||
      !within(check_t(d.shift) + d.shift_neg, kMinShift, kMaxShift) ||
      !within(d.code_bits, 1, table ? YHW_TABLE_BITS : 8 * kMaxCodeBytes)) {
    return false;
  }
  const check_t codes = check_t(1) << d.code_bits;
  if ((d.code_lo != 0 && d.code_lo != -(codes / 2)) || d.code_hi != d.code_lo + codes - 1) {
    return false;
  }
  return table ? d.table_offset % kLanes == 0
               : d.code_lo <= d.clamp_lo && d.clamp_lo <= d.clamp_hi && d.clamp_hi <= d.code_hi;
}

YHW_HD bool same_shape(const yhw_descriptor_t& d) {
  return d.in_c == d.out_c && d.in_h == d.out_h && d.in_w == d.out_w;
}

YHW_HD bool add_fits(const yhw_descriptor_t& d) {
  for (int i = 0; i < YHW_MAX_INPUTS; ++i) {
#pragma HLS UNROLL
    if (i < d.num_inputs && !(input_fits(d, i) && within(d.in_shift[i], 0, 31))) {
      return false;
    }
  }
  return same_shape(d);
}

YHW_HD bool mul_fits(const yhw_descriptor_t& d) {
  const bool one_pixel = d.factor_h == 1 && d.factor_w == 1;
  return d.num_inputs == 2 && same_shape(d) && (d.factor_c == d.out_c || d.factor_c == 1) &&
         (one_pixel || (d.factor_h == d.out_h && d.factor_w == d.out_w)) &&
         map_fits(d.in_offset[1], d.factor_c, d.factor_h, d.factor_w, d.in_element_bytes[1], kLanes);
}

YHW_HD bool copy_fits(const yhw_descriptor_t& d) {
  return within(d.stride, 1, kMaxDimension) && d.out_h == check_t(d.in_h) * d.stride &&
         d.out_w == check_t(d.in_w) * d.stride && within(d.in_channel, 0, d.in_c - d.out_c);
}

YHW_HD bool reorg_fits(const yhw_descriptor_t& d) {
  const check_t s = d.stride;
  if (!within(s, 1, kMaxDimension)) {
    return false;
  }
  if (d.flags & YHW_REORG_REVERSE) {
    return d.in_c == d.out_c * s * s && d.out_h == d.in_h * s && d.out_w == d.in_w * s;
  }
  return d.out_c == d.in_c * s * s && d.in_h == d.out_h * s && d.in_w == d.out_w * s &&
         (!(d.flags & YHW_REORG_DARKNET) || d.in_c % (s * s) == 0);
}

// Codes that are moved keep their length.
YHW_HD bool same_codes(const yhw_descriptor_t& d) {
  return d.num_inputs == 1 && d.in_element_bytes[0] == d.out_element_bytes;
}

// Whether the accelerator can run the record without leaving a buffer, a loop bound or a word length.
YHW_STAGE bool record_fits(const yhw_descriptor_t& d) {
#pragma HLS INLINE off
  if (d.magic != YHW_MAGIC || d.modes != YHW_ROUNDING + 16 * YHW_OVERFLOW ||
      d.build != kTm + 256 * kTn + 65536 * YHW_ACC_BITS || !maps_fit(d)) {
    return false;
  }
  switch (d.op) {
    case YHW_CONV:
    case YHW_DWCONV:
      return d.num_inputs == 1 && tile_fits(d) && weights_fit(d) && requant_fits(d);
    case YHW_MAXPOOL:
      return same_codes(d) && d.in_c == d.out_c && tile_fits(d) && d.dilation_h == 1 && d.dilation_w == 1;
    case YHW_AVGPOOL:
      return d.num_inputs == 1 && d.in_c == d.out_c && d.out_h == 1 && d.out_w == 1 && requant_fits(d);
    case YHW_ADD:
      return add_fits(d) && requant_fits(d);
    case YHW_MUL:
      return mul_fits(d) && requant_fits(d);
    case YHW_COPY:
      return same_codes(d) && copy_fits(d);
    case YHW_REORG:
      return same_codes(d) && reorg_fits(d);
    default:
      return false;
  }
}

}  // namespace yhw

#endif  // YHW_CHECK_H_
