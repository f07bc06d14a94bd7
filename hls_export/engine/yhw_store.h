// SPDX-License-Identifier: Apache-2.0
// The end of every computing operation: accumulators become codes and go to memory.
#ifndef YHW_STORE_H_
#define YHW_STORE_H_

#include "yhw_descriptor.h"
#include "yhw_memory.h"

namespace yhw {

#ifndef __SYNTHESIS__
// Simulation only: sees every accumulator before its requantisation.
typedef void (*TraceFunction)(int channel, int y, int x, int64_t acc, int shift);
extern TraceFunction g_trace;
#endif

// How the accumulators of the current record become codes.
struct Store {
  RequantParams<wide_t> params;
  bool has_table;
  int channels;               // real channels; the lanes behind them are written as 0
  int16_t table[kTableSize];  // codes of the activation, lowest argument first
};

YHW_HD MapPort output_port(const yhw_descriptor_t& d) {
  MapPort port = {d.out_offset, d.out_h, d.out_w, d.out_element_bytes, false, kLanes};
  return port;
}

YHW_HD MapPort input_port(const yhw_descriptor_t& d, int i) {
  MapPort port = {d.in_offset[i], d.in_h, d.in_w, d.in_element_bytes[i], d.in_signed[i] != 0, kLanes};
  if (i == 0) {
    port.lanes = d.in_lanes;
  }
  return port;
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
    const int entries = 1 << d.code_bits;
  load_table:
    for (int i = 0; i < entries; i += 2) {
#pragma HLS LOOP_TRIPCOUNT min = 128 max = 32768
#pragma HLS PIPELINE II = 1
      const int32_t pair = read_int32(params, d.table_offset + 2 * i);
      store->table[i] = static_cast<int16_t>(pair & 0xffff);
      store->table[i + 1] = static_cast<int16_t>((pair >> 16) & 0xffff);
    }
  }
}

// The codes of the pieces that start at `channel` for one pixel, from `acc` with one shift per lane.
YHW_HD void store_piece(const Store& store, const MapPort& out, int channel, int y, int x, const acc_t acc[kLanes],
                        const int32_t shift[kLanes], word_t* memory) {
#pragma HLS INLINE
  int32_t codes[kLanes];
#pragma HLS ARRAY_PARTITION variable = codes complete
  for (int i = 0; i < kLanes; ++i) {
#pragma HLS UNROLL
    if (channel + i >= store.channels) {
      codes[i] = 0;
      continue;
    }
#ifndef __SYNTHESIS__
    if (g_trace) {
      g_trace(channel + i, y, x, static_cast<int64_t>(acc[i]), shift[i]);
    }
#endif
    const wide_t wide = acc[i];
    if (store.has_table) {
      const wide_t code = requant_code<kRounding, kOverflow>(wide, static_cast<int>(shift[i]), store.params);
      codes[i] = store.table[static_cast<int>(code - store.params.code_lo)];
    } else {
      codes[i] = static_cast<int32_t>(requant<kRounding, kOverflow>(wide, static_cast<int>(shift[i]), store.params));
    }
  }
  write_piece(memory, out, channel / kLanes, y, x, codes);
}

}  // namespace yhw

#endif  // YHW_STORE_H_
