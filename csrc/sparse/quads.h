// SPDX-License-Identifier: Apache-2.0
// Convolution of 8-bit codes with sparse 8-bit weights, exact modulo 2^32.
//
// Four neighbouring input channels are a quad, so that one instruction multiplies four weights. The last quad of a
// group may be shorter; its weights are zero there.
#ifndef YHW_SPARSE_QUADS_H_
#define YHW_SPARSE_QUADS_H_

#include "conv.h"

namespace yhw {
namespace sparse {

constexpr int64_t kQuad = 4;

constexpr int64_t quads_of(int64_t channels) { return (channels + kQuad - 1) / kQuad; }

// The shape with quads for channels.
inline ConvShape in_quads(ConvShape shape) {
  shape.in_channels = shape.groups * quads_of(shape.group_channels());
  return shape;
}

struct CodeProblem {
  ConvShape shape;           // channels are codes
  Weights<int32_t> weights;  // a value is four int8; chunk and taps count quads
  const uint8_t* x;          // [batch, in_channels, height, width], contiguous
  bool is_signed;            // the codes are int8
  const int32_t* bias;       // [out_channels], or null
  // outputs
  int32_t* y;  // [batch, out_channels, out_height, out_width], contiguous
};

void convolve_codes(const CodeProblem& problem, Path path, int threads, const Parallel& parallel);

}  // namespace sparse
}  // namespace yhw

#endif  // YHW_SPARSE_QUADS_H_
