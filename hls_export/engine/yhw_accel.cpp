// SPDX-License-Identifier: Apache-2.0
// The top of the accelerator: fetch a record, run it, next.
#include "yhw_accel.h"

#include "yhw_copy.h"
#include "yhw_elementwise.h"
#include "yhw_pool.h"

namespace yhw {

#ifndef __SYNTHESIS__
TraceFunction g_trace = nullptr;
#endif

// The on-chip memories of the convolution and pool engines.
struct Buffers {
  InputBuffer ifm;
  WeightBuffer weights;
  Accumulators acc;
  ChannelTable channels;
};

YHW_STAGE yhw_descriptor_t load_descriptor(const int32_t* descriptors, int index) {
#pragma HLS INLINE off
  union {
    int32_t words[YHW_DESCRIPTOR_WORDS];
    yhw_descriptor_t fields;
  } record;
load_record:
  for (int i = 0; i < YHW_DESCRIPTOR_WORDS; ++i) {
#pragma HLS PIPELINE II = 1
    record.words[i] = descriptors[index * YHW_DESCRIPTOR_WORDS + i];
  }
  return record.fields;
}

YHW_HD int smaller(int a, int b) { return a < b ? a : b; }

// One spatial tile of a convolution, all output channels.
YHW_STAGE void run_conv_tile(const yhw_descriptor_t& d, const word_t* params, int oy, int ox, const Store& store,
                             Buffers* buffers, word_t* memory) {
#pragma HLS INLINE off
  const int tile_h = smaller(d.tile_h, d.out_h - oy), tile_w = smaller(d.tile_w, d.out_w - ox);
  const Region region = input_region(d, oy, ox, tile_h, tile_w);
  const MapPort in = input_port(d, 0), out = output_port(d);
  const bool depthwise = d.op == YHW_DWCONV;
  const int lanes = depthwise ? kChannels : kTm;
  const int taps = d.size_h * d.size_w;
conv_outputs:
  for (int tile = 0; tile * lanes < d.out_c; ++tile) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
    const TileEntry entry = read_tile_entry(params, d, tile);
    load_channels(params, d, tile * lanes, lanes, &buffers->channels);
    start_sums(buffers->channels, tile_h * tile_w, &buffers->acc);
    if (depthwise) {
      load_weights(params, entry.weights, entry.count, d.weight_bytes, &buffers->weights);
      load_region(memory, in, d.in_c, tile * kChannels / kLanes, kChannels / kLanes, region, 0, &buffers->ifm);
      accumulate_depthwise(d, buffers->ifm, buffers->weights, region, tile_h, tile_w, &buffers->acc);
    } else {
      const uint32_t step = static_cast<uint32_t>(taps) * kTm * kTn * d.weight_bytes;
    conv_inputs:
      for (int n = 0; n < entry.count; ++n) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 64
        load_weights(params, entry.weights + n * step, taps, d.weight_bytes, &buffers->weights);
        load_region(memory, in, d.in_c, (entry.first + n) * (kTn / kLanes), kTn / kLanes, region, 0, &buffers->ifm);
        accumulate_dense(d, buffers->ifm, buffers->weights, region, tile_h, tile_w, &buffers->acc);
      }
    }
    store_tile(store, out, buffers->channels, tile * lanes, lanes, oy, ox, tile_h, tile_w, buffers->acc, memory);
  }
}

YHW_STAGE void run_conv(const yhw_descriptor_t& d, const word_t* params, const Store& store, Buffers* buffers,
                        word_t* memory) {
#pragma HLS INLINE off
conv_tile_rows:
  for (int oy = 0; oy < d.out_h; oy += d.tile_h) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 208
  conv_tile_columns:
    for (int ox = 0; ox < d.out_w; ox += d.tile_w) {
#pragma HLS LOOP_TRIPCOUNT min = 1 max = 4
      run_conv_tile(d, params, oy, ox, store, buffers, memory);
    }
  }
}

// Block by block, so that the output may take the place of the input (see hls_export/plan/memory.py).
YHW_STAGE void run_maxpool(const yhw_descriptor_t& d, Buffers* buffers, word_t* memory) {
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
        const int tile_h = smaller(d.tile_h, d.out_h - oy), tile_w = smaller(d.tile_w, d.out_w - ox);
        const Region region = input_region(d, oy, ox, tile_h, tile_w);
        load_region(memory, in, d.in_c, channel / kLanes, kChannels / kLanes, region, 0, &buffers->ifm);
        max_of_windows(d, buffers->ifm, region, tile_h, tile_w, &buffers->acc);
        store_codes(out, d.out_c, channel, oy, ox, tile_h, tile_w, buffers->acc, memory);
      }
    }
  }
}

YHW_STAGE bool run_record(const yhw_descriptor_t& d, const word_t* params, Store* store, Buffers* buffers,
                          word_t* memory) {
#pragma HLS INLINE off
  if (d.magic != YHW_MAGIC || d.modes != YHW_ROUNDING + 16 * YHW_OVERFLOW) {
    return false;
  }
  load_store(params, d, store);
  switch (d.op) {
    case YHW_CONV:
    case YHW_DWCONV:
      run_conv(d, params, *store, buffers, memory);
      return true;
    case YHW_MAXPOOL:
      run_maxpool(d, buffers, memory);
      return true;
    case YHW_AVGPOOL:
      run_avgpool(d, *store, memory);
      return true;
    case YHW_ADD:
      run_add(d, *store, memory);
      return true;
    case YHW_MUL:
      run_mul(d, *store, memory);
      return true;
    case YHW_COPY:
      run_copy(d, memory);
      return true;
    case YHW_REORG:
      run_reorg(d, memory);
      return true;
    default:
      return false;
  }
}

}  // namespace yhw

extern "C" int yhw_accel(const yhw::word_t* params, yhw::word_t* activations, const int32_t* descriptors, int first,
                         int count) {
#pragma HLS INTERFACE m_axi port = params offset = slave bundle = gmem_params max_read_burst_length = 64
#pragma HLS INTERFACE m_axi port = activations offset = slave bundle = gmem_activations max_read_burst_length = \
    64 max_write_burst_length = 64
#pragma HLS INTERFACE m_axi port = descriptors offset = slave bundle = gmem_params_descriptors
#pragma HLS INTERFACE s_axilite port = first
#pragma HLS INTERFACE s_axilite port = count
#pragma HLS INTERFACE s_axilite port = return
  static yhw::Buffers buffers;
  static yhw::Store store;
#pragma HLS ARRAY_PARTITION variable = buffers.ifm.codes complete dim = 1
#pragma HLS ARRAY_PARTITION variable = buffers.ifm.codes complete dim = 3
#pragma HLS ARRAY_PARTITION variable = buffers.weights.codes complete dim = 2
#pragma HLS ARRAY_PARTITION variable = buffers.weights.codes complete dim = 3
#pragma HLS ARRAY_PARTITION variable = buffers.acc.sums complete dim = 2
#pragma HLS ARRAY_PARTITION variable = buffers.channels.bias complete
#pragma HLS ARRAY_PARTITION variable = buffers.channels.shift complete
records:
  for (int i = first; i < first + count; ++i) {
#pragma HLS LOOP_TRIPCOUNT min = 10 max = 160
    const yhw_descriptor_t d = yhw::load_descriptor(descriptors, i);
    if (!yhw::run_record(d, params, &store, &buffers, activations)) {
      return 1 + i;
    }
  }
  return 0;
}
