// SPDX-License-Identifier: Apache-2.0
// The type and the conversions of CUDA's header of this name that kernels use.
#ifndef YHW_CUDA_EMULATION_CUDA_BF16_H_
#define YHW_CUDA_EMULATION_CUDA_BF16_H_

#include <cstdint>
#include <cstring>

#include "runtime.h"

struct __nv_bfloat16 {
  uint16_t bits;
};

inline float __bfloat162float(__nv_bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// To nearest, ties to even; NaN becomes the one that the device gives.
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  if (x != x) {
    return {0x7fff};
  }
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const uint32_t rounded = bits + 0x7fffU + (bits >> 16 & 1U);
  return {static_cast<uint16_t>(rounded >> 16)};
}

#endif  // YHW_CUDA_EMULATION_CUDA_BF16_H_
