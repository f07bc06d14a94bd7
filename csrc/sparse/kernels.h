// SPDX-License-Identifier: Apache-2.0
// What conv.cpp asks of an instruction set; the implementations are instances of kernels_impl.h.
#ifndef YHW_SPARSE_KERNELS_H_
#define YHW_SPARSE_KERNELS_H_

#include "conv.h"

namespace yhw {
namespace sparse {

template <typename Real>
struct Job {
  Problem<Real> problem;
  Tiling tiling;
  const uint16_t* offsets;  // [blocks]: first vector of the block's tap in the tile buffer
};

// A run of an input row that is copied into the tile buffer, or of a tile's output that is copied out.
struct Copy {
  int64_t map;    // elements from the start of the channel in the first image
  int32_t tile;   // elements from the start of the channel's part of the buffer
  uint32_t mask;  // lanes that exist; the others read as zero and are not written
};

// Memory of one thread, all aligned to vectors.
template <typename Real>
struct Workspace {
  Real* input;         // [chunk][channel_vectors][lanes]
  Real* accumulators;  // [block rows of the task][block_rows][rows][lanes], for more than one chunk
  Real* result;        // [block_rows][rows][lanes]
  Real* bias;          // [block_rows][lanes]
  Copy* loads;         // [input_rows * kernel_w * pieces]
  Copy* stores;        // [rows * pieces]
};

template <typename Real>
struct Kernels {
  int32_t lanes;
  int32_t max_rows;
  // Block rows [first, last) of one tile.
  void (*run_tile)(const Job<Real>& job, int64_t tile, int64_t first, int64_t last, const Workspace<Real>& workspace);
};

Kernels<float> scalar_kernels_float();
Kernels<double> scalar_kernels_double();
Kernels<float> avx2_kernels();
Kernels<float> avx512_kernels();

}  // namespace sparse
}  // namespace yhw

#endif  // YHW_SPARSE_KERNELS_H_
