// SPDX-License-Identifier: Apache-2.0
// The top of the accelerator: check all records, then fetch one after the other and run it.
#include "yhw_accel.h"

#include "yhw_check.h"
#include "yhw_copy.h"
#include "yhw_depthwise.h"
#include "yhw_elementwise.h"
#include "yhw_fetch.h"
#include "yhw_pool.h"

namespace yhw {

#ifndef __SYNTHESIS__
TraceFunction g_trace = nullptr;
#endif

// One spatial tile of a convolution, all output channels.
YHW_STAGE void run_conv_tile(const yhw_descriptor_t& d, const word_t* params, const OutputTile& tile,
                             const Store& store, InputBuffer& ifm, WeightBuffer& weights, SumBuffer& sums,
                             word_t* memory) {
#pragma HLS INLINE off
  ChannelTable channels;
#pragma HLS ARRAY_PARTITION variable = channels.bias complete
#pragma HLS ARRAY_PARTITION variable = channels.shift complete
  const Region region = input_region(d, tile.y, tile.x, tile.h, tile.w);
  const MapPort in = input_port(d, 0), out = output_port(d);
  const bool depthwise = d.op == YHW_DWCONV;
  const int lanes = depthwise ? kChannels : kTm;
  const int taps = d.size_h * d.size_w;
conv_outputs:
  for (int n = 0; n * lanes < d.out_c; ++n) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
    const TileEntry entry = read_tile_entry(params, d, n);
    load_channels(params, d, n * lanes, lanes, &channels);
    if (depthwise) {
      load_weights(params, entry.weights, divide_up(taps, kTn), d.weight_bytes, weights);
      load_region(memory, in, n * (kChannels / kLanes), kChannels / kLanes, region, ifm);
      accumulate_depthwise(d, ifm, weights, channels, region, tile.h, tile.w, sums);
    } else {
      start_sums(channels, tile.h * tile.w, sums);
      const uint32_t step = static_cast<uint32_t>(taps) * kTm * kTn * d.weight_bytes;
    conv_inputs:
      for (int i = 0; i < entry.count; ++i) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
        load_weights(params, entry.weights + i * step, taps, d.weight_bytes, weights);
        load_region(memory, in, (entry.first + i) * (kTn / kLanes), kTn / kLanes, region, ifm);
        accumulate_dense(d, ifm, weights, region, tile.h, tile.w, sums);
      }
    }
    store_tile(store, out, channels, n * lanes, lanes, tile, sums, memory);
  }
}

YHW_STAGE void run_conv(const yhw_descriptor_t& d, const word_t* params, const Store& store, InputBuffer& ifm,
                        WeightBuffer& weights, SumBuffer& sums, word_t* memory) {
#pragma HLS INLINE off
conv_tile_rows:
  for (int oy = 0; oy < d.out_h; oy += d.tile_h) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 208
  conv_tile_columns:
    for (int ox = 0; ox < d.out_w; ox += d.tile_w) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4
      run_conv_tile(d, params, output_tile(d, oy, ox), store, ifm, weights, sums, memory);
    }
  }
}

// min(TM, TN) channels after the other, and their tiles row by row, so that the output may take the place of the input
// where hls_export/plan/memory.py allows it.
YHW_STAGE void run_maxpool(const yhw_descriptor_t& d, InputBuffer& ifm, SumBuffer& sums, word_t* memory) {
#pragma HLS INLINE off
  const MapPort in = input_port(d, 0), out = output_port(d);
pool_blocks:
  for (int channel = 0; channel < d.out_c; channel += kChannels) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
  pool_tile_rows:
    for (int oy = 0; oy < d.out_h; oy += d.tile_h) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 208
    pool_tile_columns:
      for (int ox = 0; ox < d.out_w; ox += d.tile_w) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4
        const OutputTile tile = output_tile(d, oy, ox);
        const Region region = input_region(d, oy, ox, tile.h, tile.w);
        load_region(memory, in, channel / kLanes, kChannels / kLanes, region, ifm);
        max_of_windows(d, ifm, region, tile.h, tile.w, sums);
        store_codes(out, channel, tile, sums, memory);
      }
    }
  }
}

// Runs a record that record_fits.
YHW_STAGE void run_record(const yhw_descriptor_t& d, const word_t* params, Store* store, InputBuffer& ifm,
                          WeightBuffer& weights, SumBuffer& sums, word_t* memory) {
#pragma HLS INLINE off
  load_store(params, d, store);
  switch (d.op) {
    case YHW_CONV:
    case YHW_DWCONV:
      run_conv(d, params, *store, ifm, weights, sums, memory);
      break;
    case YHW_MAXPOOL:
      run_maxpool(d, ifm, sums, memory);
      break;
    case YHW_AVGPOOL:
      run_avgpool(d, *store, memory);
      break;
    case YHW_ADD:
      run_add(d, *store, ifm, memory);
      break;
    case YHW_MUL:
      run_mul(d, *store, ifm, memory);
      break;
    case YHW_COPY:
      run_copy(d, ifm, memory);
      break;
    default:
      run_reorg(d, ifm, memory);
  }
}

}  // namespace yhw

extern "C" int yhw_accel(const yhw::word_t* params, yhw::word_t* activations, const int32_t* descriptors, int first,
                         int count) {
#pragma HLS INTERFACE m_axi port = params offset = slave bundle = gmem_params max_read_burst_length = 64
#pragma HLS INTERFACE m_axi port = activations offset = slave bundle = gmem_activations max_read_burst_length = \
    64 max_write_burst_length = 64
#pragma HLS INTERFACE m_axi port = descriptors offset = slave bundle = gmem_descriptors max_read_burst_length = 64
#pragma HLS INTERFACE s_axilite port = first
#pragma HLS INTERFACE s_axilite port = count
#pragma HLS INTERFACE s_axilite port = return
  static yhw::InputBuffer ifm;
  static yhw::WeightBuffer weights;
  static yhw::SumBuffer sums;
  static yhw::Store store;
#pragma HLS ARRAY_PARTITION variable = ifm complete dim = 1
#pragma HLS ARRAY_PARTITION variable = ifm complete dim = 3
#pragma HLS ARRAY_PARTITION variable = weights complete dim = 2
#pragma HLS ARRAY_PARTITION variable = weights complete dim = 3
#pragma HLS ARRAY_PARTITION variable = sums complete dim = 2
#pragma HLS DISAGGREGATE variable = store
#pragma HLS ARRAY_PARTITION variable = store.table complete dim = 1
check_records:
  for (int i = first; i < first + count; ++i) {
#pragma HLS LOOP_TRIPCOUNT min = 10 max = 160
    if (!yhw::record_fits(yhw::load_descriptor(descriptors, i))) {
      return 1 + i;
    }
  }
records:
  for (int i = first; i < first + count; ++i) {
#pragma HLS LOOP_TRIPCOUNT min = 10 max = 160
    yhw::run_record(yhw::load_descriptor(descriptors, i), params, &store, ifm, weights, sums, activations);
  }
  return 0;
}
