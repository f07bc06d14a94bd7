// SPDX-License-Identifier: Apache-2.0
// Convolution with few channels in a group, depthwise above all: there is no matrix product in it, and every thread
// sums the products of its own outputs.
#ifndef YHW_CUDA_CONV_DIRECT_CUH_
#define YHW_CUDA_CONV_DIRECT_CUH_

#include "../int_conv2d.h"
#include "device.cuh"

namespace yhw {

// kWidth output channels per thread: 1 for any convolution, 4 for a depthwise one with as many inputs as outputs.
template <typename Code, int kWidth>
struct ConvDirect {
  static constexpr bool kUnsigned = static_cast<Code>(-1) > 0;
  static constexpr int kThreads = 128;
  IntConv2dArgs args;

  // grid: x over the outputs of a row, y over the rows.
  __device__ void operator()() const {
    const ConvSizes& z = args.sizes;
    const unsigned per_pixel = static_cast<unsigned>(z.k / kWidth);
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    const int ox = static_cast<int>(i / per_pixel), k = static_cast<int>(i % per_pixel) * kWidth;
    if (ox >= z.wo) {
      return;
    }
    for (int64_t row = blockIdx.y; row < static_cast<int64_t>(z.n) * z.ho; row += gridDim.y) {
      int acc[kWidth] = {};
      accumulate(static_cast<int>(row / z.ho), static_cast<int>(row % z.ho), ox, k, acc);
      for (int j = 0; j < kWidth; ++j) {
        args.output.store(args.y, (row * z.wo + ox) * z.k + k + j, args.output.code(acc[j], k + j));
      }
    }
  }

 private:
  __device__ void accumulate(int image, int oy, int ox, int k, int (&acc)[kWidth]) const {
    const ConvSizes& z = args.sizes;
    const int inputs = z.group_inputs(), first = kWidth > 1 ? k : k / z.group_outputs() * inputs;
    const int8_t* weights = args.weights + static_cast<int64_t>(k) * z.depth();
    for (int r = 0; r < z.r; ++r) {
      const int y = oy * z.stride[0] - z.padding[0] + r * z.dilation[0];
      for (int s = 0; s < z.s; ++s, weights += inputs) {
        const int x = ox * z.stride[1] - z.padding[1] + s * z.dilation[1];
        if (y < 0 || y >= z.h || x < 0 || x >= z.w) {
          continue;
        }
        const int64_t pixel = (static_cast<int64_t>(image) * z.h + y) * z.w + x;
        add_tap(static_cast<const Code*>(args.x) + pixel * z.c + first, weights, acc);
      }
    }
  }

  __device__ void add_tap(const Code* codes, const int8_t* weights, int (&acc)[kWidth]) const {
    if constexpr (kWidth == 4) {
      const uint32_t word = *reinterpret_cast<const uint32_t*>(codes);
      const int taps = args.sizes.r * args.sizes.s;
      for (int j = 0; j < 4; ++j) {
        acc[j] += static_cast<Code>(word >> (8 * j)) * weights[j * taps];
      }
    } else {
      const int inputs = args.sizes.group_inputs();
      int c = 0;
      if (is_word(codes) && is_word(weights)) {
        for (; c + 4 <= inputs; c += 4) {
          acc[0] = dot4<kUnsigned>(*reinterpret_cast<const uint32_t*>(codes + c),
                                   *reinterpret_cast<const uint32_t*>(weights + c), acc[0]);
        }
      }
      for (; c < inputs; ++c) {
        acc[0] = static_cast<int>(static_cast<uint32_t>(acc[0]) + static_cast<uint32_t>(codes[c] * weights[c]));
      }
    }
  }

  static __device__ bool is_word(const void* address) { return reinterpret_cast<uintptr_t>(address) % 4 == 0; }
};

}  // namespace yhw

#endif  // YHW_CUDA_CONV_DIRECT_CUH_
