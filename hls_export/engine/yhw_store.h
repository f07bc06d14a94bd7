// SPDX-License-Identifier: Apache-2.0
// The end of every computing operation: accumulators become codes and go to memory.
#ifndef YHW_STORE_H_
#define YHW_STORE_H_

#include "yhw_memory.h"

namespace yhw {

#ifndef __SYNTHESIS__
// Simulation only: sees every accumulator before its requantisation; `pixel` counts the output's pixels row by row.
typedef void (*TraceFunction)(int channel, int pixel, int64_t acc, int shift);
extern TraceFunction g_trace;
#endif

// Every lane looks up its own code in the same cycle, and a memory has two ports: a copy of the table for two lanes.
// Tables of more than 4096 entries are kept once, and the stages that write codes then take L / 2 cycles per word.
constexpr int kTableCopies = YHW_TABLE_BITS <= 12 ? kLanes / 2 : 1;
constexpr int kLanesPerCopy = kLanes / kTableCopies;

// How the accumulators of the current record become codes.
struct Store {
  RequantParams<wide_t, factor_t> params;
  bool has_table;
  int channels;                             // real channels; the lanes behind them are written as 0
  int16_t table[kTableCopies][kTableSize];  // codes of the activation, lowest argument first
};

YHW_HD MapPort output_port(const yhw_descriptor_t& d) {
  MapPort port = {d.out_offset, d.out_c, d.out_h, d.out_w, d.out_element_bytes, false, kLanes};
  return port;
}

YHW_HD MapPort input_port(const yhw_descriptor_t& d, int i) {
  MapPort port = {d.in_offset[i], d.in_c, d.in_h, d.in_w, d.in_element_bytes[i], d.in_signed[i] != 0, kLanes};
  if (i == 0) {
    port.lanes = d.in_lanes;
  }
  return port;
}

YHW_STAGE void load_table(const word_t* params, uint32_t offset, int entries,
                          int16_t (&table)[kTableCopies][kTableSize]) {
#pragma HLS INLINE off
  const int first = static_cast<int>(offset / kLanes);
  const int words = divide_up(2 * entries, kLanes);
load_table_words:
  for (int i = 0; i < words; ++i) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = kTableWords
#pragma HLS PIPELINE
    const word_t word = params[first + i];
    for (int k = 0; k < kLanes / 2; ++k) {
#pragma HLS UNROLL
      const int entry = i * (kLanes / 2) + k;
      if (entry < entries) {
        const uint32_t bits = word_byte(word, 2 * k) | (static_cast<uint32_t>(word_byte(word, 2 * k + 1)) << 8);
        for (int copy = 0; copy < kTableCopies; ++copy) {
#pragma HLS UNROLL
          table[copy][entry] = static_cast<int16_t>(signed_code(bits, true, 16));
        }
      }
    }
  }
}

YHW_STAGE void load_store(const word_t* params, const yhw_descriptor_t& d, Store* store) {
#pragma HLS INLINE off
  store->params.mul_pos = d.mul_pos;
  store->params.mul_neg = d.mul_neg;
  store->params.shift_neg = d.shift_neg;
  store->params.code_lo = d.code_lo;
  store->params.code_hi = d.code_hi;
  store->params.code_bits = d.code_bits;
  store->params.clamp_lo = d.clamp_lo;
  store->params.clamp_hi = d.clamp_hi;
  store->has_table = (d.flags & YHW_HAS_TABLE) != 0;
  store->channels = d.out_c;
  if (store->has_table) {
    load_table(params, d.table_offset, 1 << d.code_bits, store->table);
  }
}

// The output code of an accumulator in lane `lane`.
YHW_HD int32_t output_code(const Store& store, int lane, acc_t acc, int shift) {
#pragma HLS INLINE
  const bool negative = acc < acc_t(0);
  const wide_t product = scale(acc, requant_factor(negative, store.params));
  const wide_t code = product_code<kRounding, kOverflow>(product, negative, shift, store.params);
  if (store.has_table) {
    return store.table[lane / kLanesPerCopy][static_cast<int>(code - store.params.code_lo)];
  }
  return static_cast<int32_t>(clamp_code(code, store.params));
}

// Part `part` of the piece that starts at `channel`, from L accumulators with a shift each.
YHW_HD word_t output_word(const Store& store, const MapPort& out, int channel, int pixel, int part,
                          const acc_t acc[kLanes], const int32_t shift[kLanes]) {
#pragma HLS INLINE
  word_t word = word_t();
  for (int i = 0; i < kLanes; ++i) {
#pragma HLS UNROLL
    if (holds_lane(out, part, i) && channel + i < store.channels) {
#ifndef __SYNTHESIS__
      if (g_trace) {
        g_trace(channel + i, pixel, static_cast<int64_t>(acc[i]), shift[i]);
      }
#endif
      set_word_code(out, i, output_code(store, i, acc[i], static_cast<int>(shift[i])), &word);
    }
  }
  (void)pixel;
  return word;
}

}  // namespace yhw

#endif  // YHW_STORE_H_
