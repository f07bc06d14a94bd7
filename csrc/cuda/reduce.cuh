// SPDX-License-Identifier: Apache-2.0
// Sums whose bits depend on nothing but the values: the order of the additions is fixed, and there are no atomics.
#ifndef YHW_CUDA_REDUCE_CUH_
#define YHW_CUDA_REDUCE_CUH_

#include "device.cuh"

namespace yhw {

// The sum over the lanes of a block of kLanes threads, a power of two, in every one of them: lane i takes lane
// i + n/2, then n is halved. A loop over an array in this order gives the same bits on the CPU.
// All threads of the block must call it.
template <int kLanes, typename T>
__device__ T sum_lanes(T value) {
  static_assert(kLanes >= 32 && (kLanes & (kLanes - 1)) == 0, "whole warps, halved down to one lane");
  if constexpr (kLanes > 32) {
    __shared__ T lanes[kLanes];
    const int lane = static_cast<int>(threadIdx.x);
    __syncthreads();  // a call before may still be reading
    lanes[lane] = value;
    __syncthreads();
    for (int half = kLanes / 2; half >= 32; half /= 2) {
      if (lane < half) {
        lanes[lane] += lanes[lane + half];
      }
      __syncthreads();
    }
    value = lanes[lane % 32];  // every warp does the rest, so no one waits for the first
  }
  for (int half = 16; half > 0; half /= 2) {
    value += __shfl_xor_sync(kWholeWarp, value, half);  // lanes i and i + half get the same sum
  }
  return value;
}

}  // namespace yhw

#endif  // YHW_CUDA_REDUCE_CUH_
