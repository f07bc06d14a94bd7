// SPDX-License-Identifier: Apache-2.0
// The only place that starts kernels: on the tensor's device, on torch's current stream, checked, with 64-bit indices.
#ifndef YHW_CUDA_LAUNCH_CUH_
#define YHW_CUDA_LAUNCH_CUH_

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>

namespace yhw {

constexpr int kThreadsPerBlock = 256;
// Enough blocks to fill every device; the loop in the kernel covers the rest.
constexpr int64_t kMaxBlocks = 65535;

template <typename Body>
__global__ void __launch_bounds__(kThreadsPerBlock) for_each_kernel(int64_t count, Body body) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    body(i);
  }
}

// Calls body(i) for i in [0, count) on the device and stream of `like`. `body` is a struct with a __device__ call
// operator, copied to the device: it holds raw pointers, no tensors.
template <typename Body>
void for_each(const torch::stable::Tensor& like, int64_t count, const Body& body) {
  if (count == 0) {
    return;  // an empty grid is an invalid launch
  }
  const auto device = like.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const auto stream = torch::stable::accelerator::getCurrentStream(device);
  const int64_t blocks = std::min((count + kThreadsPerBlock - 1) / kThreadsPerBlock, kMaxBlocks);
  for_each_kernel<<<static_cast<unsigned>(blocks), kThreadsPerBlock, 0,
                    static_cast<cudaStream_t>(stream.nativeHandle())>>>(count, body);
  const cudaError_t error = cudaGetLastError();
  STD_TORCH_CHECK(error == cudaSuccess, "CUDA kernel launch failed: ", cudaGetErrorString(error));
}

}  // namespace yhw

#endif  // YHW_CUDA_LAUNCH_CUH_
