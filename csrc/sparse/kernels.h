// SPDX-License-Identifier: Apache-2.0
// What conv.cpp asks of an instruction set; the implementations are instances of kernels_impl.h and
// regions_impl.h.
#ifndef YHW_SPARSE_KERNELS_H_
#define YHW_SPARSE_KERNELS_H_

#include "conv.h"
#include "regions.h"

namespace yhw {
namespace sparse {

// Kernels read so many places past the last one.
constexpr int64_t kPlacesAhead = 4;

template <typename Element>
struct Job {
  Problem<Element> problem;
  Tiling tiling;
  const uint16_t* offsets;  // [blocks]: first vector of the block's tap in the tile buffer
};

// A run of an input row that is copied into the tile buffer, or of a tile's output that is copied out.
struct Copy {
  int64_t map;    // elements from the start of the channel in the first image
  int32_t tile;   // elements from the start of the channel's part of the buffer
  uint32_t mask;  // lanes that exist; the others read as `outside` and are not written
};

// Memory of one thread, all aligned to vectors.
template <typename Element>
struct Workspace {
  Element* input;         // [chunk][channel_vectors][lanes]
  Element* accumulators;  // [block rows of the task][block_rows][rows][lanes], for more than one chunk
  Element* result;        // [block_rows][rows][lanes]
  Element* bias;          // [block_rows][lanes]
  Copy* loads;            // [load_count()] of the tiling
  Copy* stores;           // [store_count()]
};

template <typename Element>
struct RegionJob {
  Problem<Element> problem;
  Regions regions;
  const uint32_t* offsets;  // [blocks]: element of the block's tap in the buffer
};

template <typename Element>
struct RegionWorkspace {
  Element* input;  // [chunk][channel_elements], unless it is read in place
  Element* sums;   // [pixels][16] for one row of blocks or, with more than one chunk, for all 16 channels of the task
  Element* bias;   // [16]
  Copy* loads;     // [input_rows * phases * phase_pitch / lanes]
};

// Most taps, a power of two, that Kernels::place_taps has a table of.
constexpr size_t kPlacedTaps = 32;

// Taps of a chunk with `channels` channels, and where a tap of a channel lies in the tile buffer.
struct TileTaps {
  const int16_t* taps;
  int64_t count, channels;
  int codes;               // a power of two
  const uint16_t* of_tap;  // [codes]: 65535 for what is no tap
  uint16_t per_channel;
};

template <typename Element>
struct Kernels {
  int32_t lanes;
  int32_t max_rows;
  bool runs;  // whether tiles may be of runs
  // Of quads: makes them of `pixels` codes of each of four channels, with the bits of `flip` inverted.
  void (*make_quads)(const uint8_t* const* channels, int64_t pixels, uint32_t flip, int32_t* quads);
  // Turns taps into places; returns how many, from the first. Clears *good if one is no tap of the chunk. Null where
  // there is no faster way than one by one.
  int64_t (*place_taps)(const TileTaps& taps, uint16_t* places, bool* good);
  // Block rows [first, last) of one tile.
  void (*run_tile)(const Job<Element>& job, int64_t tile, int64_t first, int64_t last,
                   const Workspace<Element>& workspace);
  // The same of one region; null where there is no such kernel.
  void (*run_region)(const RegionJob<Element>& job, int64_t region, int64_t first, int64_t last,
                     const RegionWorkspace<Element>& workspace);
};

// Those of a path.
template <typename Element>
Kernels<Element> kernels_of(Path path);

Kernels<float> scalar_kernels_float();
Kernels<double> scalar_kernels_double();
Kernels<int32_t> scalar_kernels_quads();
Kernels<float> avx2_kernels();
Kernels<int32_t> avx2_kernels_quads();
Kernels<int32_t> avxvnni_kernels_quads();
Kernels<float> avx512_kernels();
Kernels<int32_t> avx512vnni_kernels_quads();

}  // namespace sparse
}  // namespace yhw

#endif  // YHW_SPARSE_KERNELS_H_
