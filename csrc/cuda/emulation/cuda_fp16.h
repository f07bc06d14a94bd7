// SPDX-License-Identifier: Apache-2.0
// The type and the conversions of CUDA's header of this name that kernels use; _Float16 rounds to nearest even.
#ifndef YHW_CUDA_EMULATION_CUDA_FP16_H_
#define YHW_CUDA_EMULATION_CUDA_FP16_H_

#include <cstdint>
#include <cstring>

#include "runtime.h"

struct __half {
  uint16_t bits;
};

inline float __half2float(__half x) {
  _Float16 value;
  std::memcpy(&value, &x.bits, sizeof(value));
  return static_cast<float>(value);
}

inline __half __float2half_rn(float x) {
  const _Float16 value = static_cast<_Float16>(x);
  __half result;
  std::memcpy(&result.bits, &value, sizeof(value));
  return result;
}

#endif  // YHW_CUDA_EMULATION_CUDA_FP16_H_
