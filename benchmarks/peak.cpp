// SPDX-License-Identifier: Apache-2.0
// The processor's peak: independent multiply-adds from registers to registers, as many as hide their latency.
// Compiled for the machine it runs on by benchmarks/ceilings.py.
#include <immintrin.h>

#include <cstdint>

namespace {

constexpr int kChains = 12;  // two units, four to five cycles each; a few more cost nothing

#if defined(__AVX512F__)
using Floats = __m512;
inline Floats splat(float value) { return _mm512_set1_ps(value); }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
#elif defined(__FMA__)
using Floats = __m256;
inline Floats splat(float value) { return _mm256_set1_ps(value); }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
#endif

#if defined(__AVX512VNNI__)
using Bytes = __m512i;
inline Bytes splat_bytes(int8_t value) { return _mm512_set1_epi8(value); }
inline Bytes dot_add(Bytes sum, Bytes a, Bytes b) { return _mm512_dpbusd_epi32(sum, a, b); }
#elif defined(__AVXVNNI__)
using Bytes = __m256i;
inline Bytes splat_bytes(int8_t value) { return _mm256_set1_epi8(value); }
inline Bytes dot_add(Bytes sum, Bytes a, Bytes b) { return _mm256_dpbusd_avx_epi32(sum, a, b); }
#endif

// Keeps a value in a register and unknown to the compiler.
template <typename T>
inline void hold(T& value) {
  asm volatile("" : "+x"(value));
}

}  // namespace

// Runs `rounds` rounds; returns the operations done, 0 where the processor has no such instruction.
extern "C" int64_t yhw_peak_float(int64_t rounds) {
#if defined(__AVX512F__) || defined(__FMA__)
  Floats a = splat(1.0f), b = splat(0.5f), sums[kChains];
  for (Floats& sum : sums) sum = splat(0.0f);
  for (int64_t i = 0; i < rounds; ++i) {
    hold(a);
#pragma GCC unroll 12
    for (int k = 0; k < kChains; ++k) sums[k] = multiply_add(sums[k], a, b);
  }
  for (Floats& sum : sums) hold(sum);
  return rounds * kChains * 2 * static_cast<int64_t>(sizeof(Floats) / sizeof(float));
#else
  return 0 * rounds;
#endif
}

extern "C" int64_t yhw_peak_int8(int64_t rounds) {
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
  Bytes a = splat_bytes(1), b = splat_bytes(1), sums[kChains];
  for (Bytes& sum : sums) sum = splat_bytes(0);
  for (int64_t i = 0; i < rounds; ++i) {
    hold(a);
#pragma GCC unroll 12
    for (int k = 0; k < kChains; ++k) sums[k] = dot_add(sums[k], a, b);
  }
  for (Bytes& sum : sums) hold(sum);
  return rounds * kChains * 2 * static_cast<int64_t>(sizeof(Bytes));
#else
  return 0 * rounds;
#endif
}
