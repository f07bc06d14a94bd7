// SPDX-License-Identifier: Apache-2.0
// Sums whose bits do not depend on the grid, the device or the schedule: the order of the additions is fixed.
#ifndef YHW_CUDA_REDUCE_CUH_
#define YHW_CUDA_REDUCE_CUH_

#include "launch.cuh"

namespace yhw {

// The sum of `value` over the threads of a block, in every thread: pairs at distance 16, 8, .. 1 within warps, then
// the warps in ascending order. All threads of the block must call it.
template <int kThreads, typename T>
__device__ T block_sum(T value) {
  static_assert(kThreads % 32 == 0 && kThreads <= 1024, "whole warps");
  __shared__ T of_warp[kThreads / 32];
  for (int distance = 16; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kWholeWarp, value, distance);
  }
  __syncthreads();  // of_warp may still be read by a call before
  if (threadIdx.x % 32 == 0) {
    of_warp[threadIdx.x / 32] = value;
  }
  __syncthreads();
  T total = of_warp[0];
  for (int warp = 1; warp < kThreads / 32; ++warp) {
    total += of_warp[warp];
  }
  return total;
}

// Elements that one block of the first pass sums: enough to be worth a block, and the unit of the fixed order.
constexpr int64_t kSumChunk = 4096;

// First pass: partial[segment * chunks + chunk] = sum of body(segment, i) over the chunk's elements i.
template <typename T, typename Body>
struct SumChunks {
  static constexpr int kThreads = kThreadsPerBlock;
  int64_t length, chunks;
  Body body;
  // outputs
  T* partial;

  __device__ void operator()() const {
    const int64_t segment = blockIdx.x / chunks, chunk = blockIdx.x % chunks;
    const int64_t end = length < (chunk + 1) * kSumChunk ? length : (chunk + 1) * kSumChunk;
    T sum = T(0);
    for (int64_t i = chunk * kSumChunk + threadIdx.x; i < end; i += kThreads) {
      sum += body(segment, i);
    }
    sum = block_sum<kThreads>(sum);
    if (threadIdx.x == 0) {
      partial[blockIdx.x] = sum;
    }
  }
};

// Second pass: total[segment] = finish(segment, sum of its partial sums).
template <typename T, typename Finish>
struct SumPartials {
  static constexpr int kThreads = kThreadsPerBlock;
  int64_t chunks;
  const T* partial;
  Finish finish;

  __device__ void operator()() const {
    T sum = T(0);
    for (int64_t i = threadIdx.x; i < chunks; i += kThreads) {
      sum += partial[blockIdx.x * chunks + i];
    }
    sum = block_sum<kThreads>(sum);
    if (threadIdx.x == 0) {
      finish(static_cast<int64_t>(blockIdx.x), sum);
    }
  }
};

// Partial sums of `segments` segments with `length` elements each.
inline int64_t sum_chunks(int64_t length) { return std::max<int64_t>(1, (length + kSumChunk - 1) / kSumChunk); }

// Calls finish(segment, sum over i in [0, length) of body(segment, i)) for every segment, on the device of `like`.
// `partial` holds segments * sum_chunks(length) values of T, taken from torch's allocator by the caller.
template <typename T, typename Body, typename Finish>
void sum_segments(const torch::stable::Tensor& like, int64_t segments, int64_t length, T* partial, const Body& body,
                  const Finish& finish) {
  if (segments == 0) {
    return;
  }
  const int64_t chunks = sum_chunks(length);
  launch(like, dim3(blocks_for(segments * chunks, 1)), 0, SumChunks<T, Body>{length, chunks, body, partial});
  launch(like, dim3(blocks_for(segments, 1)), 0, SumPartials<T, Finish>{chunks, partial, finish});
}

}  // namespace yhw

#endif  // YHW_CUDA_REDUCE_CUH_
