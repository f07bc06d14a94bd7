// SPDX-License-Identifier: Apache-2.0
// int_conv2d by the tiles of the integer engine (csrc/engine): bytes stored as code + zero, weights packed for the
// instruction set in use, 16 output channels at a time.
#ifndef YHW_CPU_INT_CONV2D_TILES_H_
#define YHW_CPU_INT_CONV2D_TILES_H_

#include "../int_conv2d.h"

namespace yhw {

// Whether `convolve_tiles` takes these arguments; it does but for
//  - a clamp_lo beyond the largest code: the engine's graphs have none, and its epilogue gives the code then;
//  - windows so large that the copies of those at the edge would not fit any cache.
bool fits_tiles(const IntConv2dArgs& args);

// Computes all of args.y; `zero` is what code 0 of x becomes in an unsigned byte: 128 if x is int8, 0 if it is uint8.
void convolve_tiles(const IntConv2dArgs& args, int zero);

}  // namespace yhw

#endif  // YHW_CPU_INT_CONV2D_TILES_H_
