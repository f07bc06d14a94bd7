// SPDX-License-Identifier: Apache-2.0
// How an element type lies in memory (Stored) and is computed (Real), and packs of 16 bytes, one memory access each.
#ifndef YHW_CUDA_ELEMENT_CUH_
#define YHW_CUDA_ELEMENT_CUH_

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>

#include "device.cuh"

namespace yhw {

template <typename Number>
struct Exact {
  using Stored = Number;
  using Real = Number;
  static __device__ __forceinline__ Real load(Stored x) { return x; }
  static __device__ __forceinline__ Stored store(Real x) { return x; }
};
using Float32 = Exact<float>;
using Float64 = Exact<double>;

struct Float16 {
  using Stored = c10::Half;
  using Real = float;
  static __device__ __forceinline__ Real load(Stored x) { return static_cast<float>(x); }
  static __device__ __forceinline__ Stored store(Real x) { return static_cast<c10::Half>(x); }
};

struct Bfloat16 {
  using Stored = c10::BFloat16;
  using Real = float;
  static __device__ __forceinline__ Real load(Stored x) { return static_cast<float>(x); }
  static __device__ __forceinline__ Stored store(Real x) { return static_cast<c10::BFloat16>(x); }
};

constexpr int kPackBytes = 16;
template <typename Stored>
constexpr int kPackSize = kPackBytes / static_cast<int>(sizeof(Stored));

template <typename Stored>
struct alignas(kPackBytes) ElementPack {
  Stored values[kPackSize<Stored>];
};

inline bool is_pack_aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % kPackBytes == 0; }

}  // namespace yhw

#endif  // YHW_CUDA_ELEMENT_CUH_
