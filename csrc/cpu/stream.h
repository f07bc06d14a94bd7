// SPDX-License-Identifier: Apache-2.0
// Copying past the caches: for outputs larger than them, where reading the old line first would cost a third of the
// memory's bandwidth.
#ifndef YHW_CPU_STREAM_H_
#define YHW_CPU_STREAM_H_

#include <cstddef>
#include <cstdint>

#include "../core/config.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace yhw {

constexpr size_t kCacheLine = 64;

// `from` is aligned to a cache line relative to `to`, or not: whole lines of `to` are written past the caches, the ends
// through them. Call stream_fence() before other threads read.
YHW_HD void stream_copy(void* to, const void* from, size_t bytes) {
  auto* out = static_cast<char*>(to);
  const auto* in = static_cast<const char*>(from);
#if defined(__x86_64__)
  size_t head = -reinterpret_cast<uintptr_t>(out) % kCacheLine;
  head = head < bytes ? head : bytes;
  __builtin_memcpy(out, in, head);
  size_t i = head;
  for (; i + kCacheLine <= bytes; i += kCacheLine) {
#if defined(__AVX512F__)
    _mm512_stream_si512(reinterpret_cast<__m512i*>(out + i), _mm512_loadu_si512(in + i));
#elif defined(__AVX__)
    for (size_t k = 0; k < kCacheLine; k += 32) {
      _mm256_stream_si256(reinterpret_cast<__m256i*>(out + i + k),
                          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + i + k)));
    }
#else
    for (size_t k = 0; k < kCacheLine; k += 16) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(out + i + k),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i + k)));
    }
#endif
  }
  __builtin_memcpy(out + i, in + i, bytes - i);
#else
  __builtin_memcpy(out, in, bytes);
#endif
}

// Asks for the cache lines of `bytes` one page further on: the processor's own prefetching stops at the end of a page.
// An address outside of the tensor does no harm.
YHW_HD void prefetch_ahead(const void* from, size_t bytes) {
  constexpr size_t kPage = 4096;
  for (size_t i = 0; i < bytes; i += kCacheLine) {
    __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(from) + kPage + i));
  }
}

YHW_HD void stream_fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

}  // namespace yhw

#endif  // YHW_CPU_STREAM_H_
