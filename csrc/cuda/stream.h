// SPDX-License-Identifier: Apache-2.0
// The device of a tensor made current, and torch's current stream of it.
#ifndef YHW_CUDA_STREAM_H_
#define YHW_CUDA_STREAM_H_

#ifndef YHW_EMULATE_CUDA

#include <torch/csrc/stable/accelerator.h>

// Two ways to the stream's handle: the first is in every torch from 2.13 on, the second in every torch with CUDA
// before. Weak, so that the library loads where one of them is missing.
extern "C" {
__attribute__((weak)) AOTITorchError torch_stream_native_handle(StreamHandle stream, void** handle);
__attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** handle);
}

namespace yhw {

class DeviceStream {
 public:
  explicit DeviceStream(torch::stable::accelerator::DeviceIndex device) : guard_(device), handle_(nullptr) {
    if (torch_stream_native_handle != nullptr) {
      StreamHandle stream = nullptr;
      STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_stream(device, &stream));
      const torch::stable::accelerator::Stream owner(stream);
      STABLE_TORCH_ERROR_CODE_CHECK(torch_stream_native_handle(stream, &handle_));
    } else {
      STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "this torch gives no CUDA stream");
      STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &handle_));
    }
  }

  void* handle() const { return handle_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  void* handle_;
};

}  // namespace yhw

#endif  // YHW_EMULATE_CUDA

#endif  // YHW_CUDA_STREAM_H_
