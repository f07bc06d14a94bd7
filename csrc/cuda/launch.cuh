// SPDX-License-Identifier: Apache-2.0
// The only place that starts kernels: on the tensor's device, on torch's current stream, checked, with 64-bit indices.
// Nothing here waits or allocates, so a launch can be captured into a CUDA graph. Under YHW_EMULATE_CUDA the same
// kernels run on the CPU.
//
// A kernel is a struct of raw pointers and numbers, no tensors, with `static constexpr int kThreads`, the size of its
// blocks, and a call operator on the device.
#ifndef YHW_CUDA_LAUNCH_CUH_
#define YHW_CUDA_LAUNCH_CUH_

#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <limits>

#include "device.cuh"
#include "stream.h"

namespace yhw {

// Of kernels for single elements.
constexpr int kThreadsPerBlock = 256;
// Enough blocks to fill every device; the loop in the kernel covers the rest.
constexpr int64_t kMaxBlocks = 65535;
// What every device gives a block without being asked.
constexpr size_t kFreeSharedBytes = size_t{48} << 10;

#ifndef YHW_EMULATE_CUDA
template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kThreads) run_kernel(const __grid_constant__ Kernel kernel) {
  kernel();
}

inline void check_cuda(cudaError_t error, const char* what) {
  STD_TORCH_CHECK(error == cudaSuccess, "CUDA ", what, " failed: ", cudaGetErrorString(error));
}
#endif

// Runs `kernel` on the device of `like`, in blocks of Kernel::kThreads threads.
template <typename Kernel>
void launch(const torch::stable::Tensor& like, dim3 grid, size_t shared_bytes, const Kernel& kernel) {
#ifdef YHW_EMULATE_CUDA
  (void)like;
  emulation::launch(grid, Kernel::kThreads, shared_bytes, [&] { kernel(); });
#else
  const auto entry = &run_kernel<Kernel>;
  const DeviceStream stream(like.get_device_index());
  if (shared_bytes > kFreeSharedBytes) {
    check_cuda(cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
               "request for shared memory");
  }
  void* arguments[] = {const_cast<Kernel*>(&kernel)};
  check_cuda(cudaLaunchKernel(entry, grid, dim3(Kernel::kThreads), arguments, shared_bytes,
                              static_cast<cudaStream_t>(stream.handle())),
             "kernel launch");
#endif
}

// The number of blocks of `each` elements, as one dimension of a grid.
inline unsigned blocks_for(int64_t count, int64_t each) {
  const int64_t blocks = (count + each - 1) / each;
  STD_TORCH_CHECK(blocks <= std::numeric_limits<int>::max(), "CUDA kernel launch failed: ", count,
                  " elements are too many for one grid");
  return static_cast<unsigned>(blocks);
}

template <typename Body>
struct ForEach {
  static constexpr int kThreads = kThreadsPerBlock;
  int64_t count;
  Body body;

  __device__ void operator()() const {
    const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count; i += stride) {
      body(i);
    }
  }
};

// Calls body(i) for i in [0, count) on the device of `like`. `body` is a struct of raw pointers and numbers with a
// __device__ call operator.
template <typename Body>
void for_each(const torch::stable::Tensor& like, int64_t count, const Body& body) {
  if (count == 0) {
    return;  // an empty grid is an invalid launch
  }
  const int64_t blocks = std::min<int64_t>(blocks_for(count, kThreadsPerBlock), kMaxBlocks);
  launch(like, dim3(static_cast<unsigned>(blocks)), 0, ForEach<Body>{count, body});
}

}  // namespace yhw

#endif  // YHW_CUDA_LAUNCH_CUH_
