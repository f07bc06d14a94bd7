// SPDX-License-Identifier: Apache-2.0
// Convolution with sparse weights, free of torch. Only kept weights are stored and multiplied.
//
// Every output is the chain of fused multiply-adds over its kept weights in the order they are stored, starting with
// the bias: tiling, threads and instruction set do not change a bit.
//
// An Element is a float, a double, or an int32_t. Of the last one, an input is a quad: the codes of four neighbouring
// input channels, unsigned, one to a byte (quads.h); a weight is the four signed weights they are multiplied by, and
// a sum adds the four products modulo 2^32. So channels of this file are quads of channels there.
#ifndef YHW_SPARSE_CONV_H_
#define YHW_SPARSE_CONV_H_

#include <cstdint>
#include <functional>

#include "activation.h"
#include "tiling.h"

namespace yhw {
namespace sparse {

// Packed weights (yolo_hw/ops/sparse_packing.py). A block is one tap of `block_rows` neighbouring output channels.
// Blocks are ordered by chunk of `chunk` input channels, row of blocks, channel, tap.
template <typename Element>
struct Weights {
  const Element* values;  // [blocks, block_rows]
  const int16_t* taps;    // [blocks]: (channel within its chunk << tap_bits) + tap
  const int32_t* starts;  // [chunks * block_row_count + 1]: the first block of a row in a chunk
  int32_t block_rows;
  int32_t chunk;
};

// Bits that hold a tap of a kernel with `kernel_size` of them.
constexpr int tap_bits(int64_t kernel_size) {
  int bits = 0;
  while ((int64_t{1} << bits) < kernel_size) {
    ++bits;
  }
  return bits;
}

template <typename Element>
struct Problem {
  ConvShape shape;
  Weights<Element> weights;
  Activation activation;  // none for int32_t
  Element slope;          // of leaky
  Element outside;        // what a tap outside of the map reads
  const Element* x;       // [batch, in_channels, height, width], contiguous
  const Element* bias;    // [out_channels], or null
  // outputs
  Element* y;  // [batch, out_channels, out_height, out_width], contiguous

  int64_t block_row_count() const { return (shape.out_channels + weights.block_rows - 1) / weights.block_rows; }
  int64_t chunk_count() const { return (shape.group_channels() + weights.chunk - 1) / weights.chunk; }
};

// The instruction set of the kernels. isa.h says what the processor has; the caller chooses. Floats have no kernels for
// VNNI, and quads none for AVX-512 without it: the widest of the others is taken.
enum class Path : int { kScalar, kAvx2, kAvx512, kAvxVnni, kAvx512Vnni };

// Runs body(task) for every task in [0, tasks), in any order, on any threads.
using Parallel = std::function<void(int64_t tasks, const std::function<void(int64_t)>& body)>;

// double has the scalar path only.
template <typename Element>
void convolve(const Problem<Element>& problem, Path path, int threads, const Parallel& parallel);

}  // namespace sparse
}  // namespace yhw

#endif  // YHW_SPARSE_CONV_H_
