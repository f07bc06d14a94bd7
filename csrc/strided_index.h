// SPDX-License-Identifier: Apache-2.0
// Descriptions of where elements lie, plain data that kernels of every instruction set may include.
#ifndef YHW_STRIDED_INDEX_H_
#define YHW_STRIDED_INDEX_H_

#include <cstdint>

namespace yhw {

constexpr int kMaxDims = 64;  // of torch

// A tensor split around one of its dimensions: [outer, channels, inner], in memory order.
struct ChannelLayout {
  int64_t outer;
  int64_t channels;
  int64_t inner;
};

// Where the elements of a strided tensor lie, in the order of the memory of a dense one of the same shape.
struct StridedIndex {
  int dim;
  int64_t sizes[kMaxDims];    // widest stride of the dense tensor first
  int64_t strides[kMaxDims];  // of the strided tensor, in elements
};

}  // namespace yhw

#endif  // YHW_STRIDED_INDEX_H_
