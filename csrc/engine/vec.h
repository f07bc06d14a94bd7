// SPDX-License-Identifier: Apache-2.0
// kLanes integers in the compiler's own vector type, whose operators shift_rounded of core/rounding.h takes. Included
// by kernels_impl.h.
#ifndef YHW_ENGINE_VEC_H_
#define YHW_ENGINE_VEC_H_

#include <cstring>
#include <utility>

#include "epilogue.h"

#define YHW_INLINE inline __attribute__((always_inline))
#define YHW_UNROLL _Pragma("GCC unroll 16")

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
YHW_INLINE Vec min_vec(Vec a, Vec b) { return a < b ? a : b; }
YHW_INLINE Vec max_vec(Vec a, Vec b) { return a > b ? a : b; }

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
