// SPDX-License-Identifier: Apache-2.0
// The device functions that CUDA C++ lacks or spells differently for each architecture, under nvcc and, defined
// YHW_EMULATE_CUDA, under a C++ compiler (emulation/). No torch.
#ifndef YHW_CUDA_DEVICE_CUH_
#define YHW_CUDA_DEVICE_CUH_

#include <cstdint>
#include <cstring>

#ifdef YHW_EMULATE_CUDA
#include "emulation/runtime.h"
#else
#include <cuda_runtime.h>
#endif

namespace yhw {

constexpr unsigned kWholeWarp = 0xffffffffU;

// The block's dynamic shared memory as a T, uninitialised; the launch asks for sizeof(T) bytes.
template <typename T>
__device__ __forceinline__ T& shared_memory() {
#ifdef YHW_EMULATE_CUDA
  static_assert(alignof(T) <= 16, "shared memory is aligned to 16 bytes");
  if (emulation::state().shared_bytes < sizeof(T)) {
    __trap();  // the launch asked for less
  }
  return *reinterpret_cast<T*>(emulation::state().shared);
#else
  extern __shared__ __align__(16) unsigned char yhw_shared_memory[];
  return *reinterpret_cast<T*>(yhw_shared_memory);
#endif
}

// acc + the dot product of four 8-bit codes (unsigned if kUnsigned) and four signed 8-bit weights.
template <bool kUnsigned>
__device__ __forceinline__ int dot4(uint32_t codes, uint32_t weights, int acc) {
#ifdef YHW_EMULATE_CUDA
  for (int i = 0; i < 4; ++i) {
    const uint32_t byte = codes >> (8 * i) & 0xff;
    const int code = kUnsigned ? static_cast<int>(byte) : static_cast<int8_t>(byte);
    const int product = code * static_cast<int8_t>(weights >> (8 * i) & 0xff);
    acc = static_cast<int>(static_cast<uint32_t>(acc) + static_cast<uint32_t>(product));
  }
  return acc;
#else
  int result;
  if (kUnsigned) {
    asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(codes), "r"(weights), "r"(acc));
  } else {
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(result) : "r"(codes), "r"(weights), "r"(acc));
  }
  return result;
#endif
}

// acc += a * b of a warp on the tensor cores: a [16][32] codes (unsigned if kUnsigned), b [32][8] signed weights,
// acc [16][8]. Lane 4 g + t holds, four codes to a register (PTX ISA, mma.m16n8k32):
//   a[0], a[2]: row g, columns 4 t.. and 16 + 4 t..;  a[1], a[3]: the same of row g + 8
//   b[0], b[1]: column g, rows 4 t.. and 16 + 4 t..
//   acc[0], acc[1]: row g, columns 2 t and 2 t + 1;   acc[2], acc[3]: the same of row g + 8
template <bool kUnsigned>
__device__ __forceinline__ void mma_16x8x32(int (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

// Loads four matrices of 8 rows with 16 bytes for a warp: lane l brings the address of row l % 8 of matrix l / 8 in
// shared memory, aligned to 16 bytes, and gets bytes 4 (l % 4).. of row l / 4 of matrix i in out[i].
__device__ __forceinline__ void load_matrices(uint32_t (&out)[4], const void* row);

#ifdef YHW_EMULATE_CUDA

struct MatrixPart {
  const unsigned char* row;
  uint32_t* out;
};

inline void load_matrices(uint32_t (&out)[4], const void* row) {
  MatrixPart part{static_cast<const unsigned char*>(row), out};
  const auto load = [](MatrixPart* const lanes[32], unsigned) {
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) {
        std::memcpy(&lanes[lane]->out[i], lanes[8 * i + lane / 4]->row + 4 * (lane % 4), 4);
      }
    }
  };
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
    __trap();  // misaligned
  }
  emulation::warp_together(kWholeWarp, part, load, {__FILE__, __LINE__});
}

struct MmaPart {
  int* acc;
  const uint32_t *a, *b;
};

template <bool kUnsigned>
void mma_16x8x32(int (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  MmaPart part{acc, a, b};
  const auto multiply = [](MmaPart* const lanes[32], unsigned) {
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        int* sum = &lanes[4 * (row % 8) + column / 2]->acc[row / 8 * 2 + column % 2];
        for (int quad = 0; quad < 8; ++quad) {
          const uint32_t codes = lanes[4 * (row % 8) + quad % 4]->a[quad / 4 * 2 + row / 8];
          *sum = dot4<kUnsigned>(codes, lanes[4 * column + quad % 4]->b[quad / 4], *sum);
        }
      }
    }
  };
  emulation::warp_together(kWholeWarp, part, multiply, {__FILE__, __LINE__});
}

// Starts a copy of kBytes from global to shared memory; only the first `bytes` are read, zeros follow.
template <int kBytes>
void copy_async(void* to, const void* from, int bytes) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "");
  if (reinterpret_cast<uintptr_t>(to) % kBytes != 0 || reinterpret_cast<uintptr_t>(from) % kBytes != 0) {
    __trap();  // misaligned
  }
  emulation::Block::running_block()->begin_copy({to, from, static_cast<size_t>(bytes), kBytes, 0});
}
inline void commit_copies() { emulation::Block::running_block()->commit_copies(); }
// Waits until at most kPending of the committed groups of this thread are under way.
template <int kPending>
void wait_for_copies() {
  emulation::Block::running_block()->wait_for_copies(kPending);
}

#else

__device__ __forceinline__ void load_matrices(uint32_t (&out)[4], const void* row) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(address)
               : "memory");
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
// Half the rows and half the depth of the product above, the shape of sm_75.
template <bool kUnsigned>
__device__ __forceinline__ void mma_8x8x16(int& acc0, int& acc1, uint32_t a, uint32_t b) {
  if (kUnsigned) {
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.u8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
                 : "+r"(acc0), "+r"(acc1)
                 : "r"(a), "r"(b));
  } else {
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%2}, {%3}, {%0,%1};"
                 : "+r"(acc0), "+r"(acc1)
                 : "r"(a), "r"(b));
  }
}
#endif

template <bool kUnsigned>
__device__ __forceinline__ void mma_16x8x32(int (&acc)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  mma_8x8x16<kUnsigned>(acc[0], acc[1], a[0], b[0]);
  mma_8x8x16<kUnsigned>(acc[2], acc[3], a[1], b[0]);
  mma_8x8x16<kUnsigned>(acc[0], acc[1], a[2], b[1]);
  mma_8x8x16<kUnsigned>(acc[2], acc[3], a[3], b[1]);
#else
  if (kUnsigned) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(acc[0]), "+r"(acc[1]), "+r"(acc[2]), "+r"(acc[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(acc[0]), "+r"(acc[1]), "+r"(acc[2]), "+r"(acc[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#endif
}

template <int kBytes>
__device__ __forceinline__ void copy_async(void* to, const void* from, int bytes) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "");
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  // Before sm_80 there is no such instruction: the copy is done at once.
  struct __align__(kBytes) Chunk {
    uint32_t words[kBytes / 4];
  };
  Chunk chunk = {};
  if (bytes == kBytes) {
    chunk = *static_cast<const Chunk*>(from);
  } else {
    for (int i = 0; i < bytes; ++i) {
      chunk.words[i / 4] |= static_cast<uint32_t>(static_cast<const unsigned char*>(from)[i]) << (i % 4 * 8);
    }
  }
  *static_cast<Chunk*>(to) = chunk;
#else
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from), "n"(kBytes), "r"(bytes)
               : "memory");
#endif
}
__device__ __forceinline__ void commit_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int kPending>
__device__ __forceinline__ void wait_for_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

#endif  // YHW_EMULATE_CUDA

}  // namespace yhw

#endif  // YHW_CUDA_DEVICE_CUH_
