// SPDX-License-Identifier: Apache-2.0
// kLanes integers in the compiler's own vector type, whose operators shift_rounded of core/rounding.h takes. Included
// by kernels_impl.h.
#ifndef YHW_ENGINE_VEC_H_
#define YHW_ENGINE_VEC_H_

#include <cstring>
#include <utility>

#include "epilogue.h"

#define YHW_INLINE inline __attribute__((always_inline))
#define YHW_UNROLL _Pragma("GCC unroll 32")

namespace yhw {
namespace {

using Vec = int32_t __attribute__((vector_size(4 * kLanes)));

YHW_INLINE Vec load_vec(const int32_t* from) {
  Vec v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}
YHW_INLINE void store_vec(int32_t* to, Vec v) { std::memcpy(to, &v, sizeof(v)); }
YHW_INLINE Vec splat(int32_t value) { return Vec{} + value; }

// A register's share of a Vec. The compiler computes sums and products of wider vectors in shares by itself, but
// comparisons an element at a time.
#if defined(__AVX512F__)
constexpr size_t kPartBytes = 64;
#elif defined(__AVX2__)
constexpr size_t kPartBytes = 32;
#else
constexpr size_t kPartBytes = 16;
#endif
constexpr int kParts = static_cast<int>(sizeof(Vec) / kPartBytes);
using Part = int32_t __attribute__((vector_size(kPartBytes)));

YHW_INLINE Part part_of(const Vec& v, int index) {
  Part part;
  std::memcpy(&part, reinterpret_cast<const uint8_t*>(&v) + static_cast<size_t>(index) * kPartBytes, kPartBytes);
  return part;
}
// The Vec of function(0), ..., function(kParts - 1).
template <typename Function>
YHW_INLINE Vec in_parts(const Function& function) {
  Vec v;
  YHW_UNROLL
  for (int i = 0; i < kParts; ++i) {
    const Part part = function(i);
    std::memcpy(reinterpret_cast<uint8_t*>(&v) + static_cast<size_t>(i) * kPartBytes, &part, kPartBytes);
  }
  return v;
}
YHW_INLINE Part min_part(Part a, Part b) { return a < b ? a : b; }
YHW_INLINE Part max_part(Part a, Part b) { return a > b ? a : b; }
YHW_INLINE Vec min_vec(const Vec& a, const Vec& b) {
  return in_parts([&](int i) __attribute__((always_inline)) { return min_part(part_of(a, i), part_of(b, i)); });
}
YHW_INLINE Vec max_vec(const Vec& a, const Vec& b) {
  return in_parts([&](int i) __attribute__((always_inline)) { return max_part(part_of(a, i), part_of(b, i)); });
}

template <typename Function, int... kIndex>
YHW_INLINE void for_each_index(const Function& function, std::integer_sequence<int, kIndex...> /* indices */) {
  (function(std::integral_constant<int, kIndex>{}), ...);
}
// Calls function(0), ..., function(kCount - 1), the numbers as types.
template <int kCount, typename Function>
YHW_INLINE void for_each_index(const Function& function) {
  for_each_index(function, std::make_integer_sequence<int, kCount>{});
}

// The conversions are loops, which become one instruction; __builtin_convertvector takes an element at a time.

// kLanes stored codes, widened.
template <typename Stored>
YHW_INLINE Vec widen(const Stored* from) {
  int32_t wide[kLanes];
  for (int k = 0; k < kLanes; ++k) {
    wide[k] = from[k];
  }
  return load_vec(wide);
}

// Stores kLanes codes as bytes.
YHW_INLINE void store_all_bytes(uint8_t* to, Vec stored) {
  int32_t wide[kLanes];
  store_vec(wide, stored);
  for (int k = 0; k < kLanes; ++k) {
    to[k] = static_cast<uint8_t>(wide[k]);
  }
}

}  // namespace
}  // namespace yhw

#endif  // YHW_ENGINE_VEC_H_
