// SPDX-License-Identifier: Apache-2.0
// How a function of csrc/core is declared for each compiler: g++, nvcc and the HLS tool.
#ifndef YHW_CORE_CONFIG_H_
#define YHW_CORE_CONFIG_H_

#if defined(__CUDACC__)
#define YHW_HD static __host__ __device__ __forceinline__
#elif defined(__GNUC__) && !defined(__SYNTHESIS__)
// static and always inlined: the same header is compiled with different instruction sets in one library, and no
// out-of-line copy of one may end up in the other.
#define YHW_HD static inline __attribute__((always_inline))
#else
#define YHW_HD static inline
#endif

// In front of a member function that runs on the host and on the device.
#if defined(__CUDACC__)
#define YHW_HD_MEMBER __host__ __device__ __forceinline__
#else
#define YHW_HD_MEMBER inline
#endif

#endif  // YHW_CORE_CONFIG_H_
