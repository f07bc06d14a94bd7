// SPDX-License-Identifier: Apache-2.0
// Rounding right shift and overflow, the arithmetic of docs/numerics.md section 2. C++14, no library headers, so that
// the HLS tool takes it too; `Wide` may be a built-in signed integer or an ap_int.
#ifndef YHW_CORE_ROUNDING_H_
#define YHW_CORE_ROUNDING_H_

#include "config.h"

namespace yhw {

// What a right shift does with the bits it removes.
enum class Rounding {
  kHalfUp = 0,    // ties toward plus infinity: (v + 2^(s-1)) >> s
  kHalfEven = 1,  // ties to even
  kHalfAway = 2,  // ties away from zero
  kFloor = 3,     // toward minus infinity: v >> s
};

// What happens to a value outside the format.
enum class Overflow {
  kSaturate = 0,           // clamp to [lo, hi]
  kSaturateSymmetric = 1,  // clamp signed formats to [-hi, hi]
  kWrap = 2,               // keep the low bits
};

// v * 2^n; the overloads avoid the undefined left shift of negative built-in integers.
template <typename Wide>
YHW_HD Wide shift_left(Wide v, int n) {
  return v << n;
}
YHW_HD long long shift_left(long long v, int n) {
  return static_cast<long long>(static_cast<unsigned long long>(v) << n);
}
YHW_HD long shift_left(long v, int n) { return static_cast<long>(static_cast<unsigned long>(v) << n); }
YHW_HD int shift_left(int v, int n) { return static_cast<int>(static_cast<unsigned int>(v) << n); }

// The constant added to a value before it is shifted right by s, so that the shift rounds.
template <Rounding kMode, typename Wide>
YHW_HD Wide rounding_bias(int s) {
  if (kMode == Rounding::kFloor || s <= 0) {
    return Wide(0);
  }
  const Wide half = shift_left(Wide(1), s - 1);
  return kMode == Rounding::kHalfEven ? Wide(half - Wide(1)) : half;
}

// v / 2^s rounded by kMode, s >= 0; `bias` is rounding_bias(s), `unit` is 1, or 0 where s is 0. Written with operators
// that SIMD vectors have, too: V and Shift may be vectors with one shift per lane.
template <Rounding kMode, typename V, typename Shift>
YHW_HD V shift_rounded(V v, Shift s, V bias, V unit) {
  if (kMode == Rounding::kHalfEven) {  // half - 1, and one more if the quotient is odd
    return V(V(v + bias) + V(V(v >> s) & unit)) >> s;
  }
  if (kMode == Rounding::kHalfAway) {  // half, and one less for negative values
    return V(v + (v < V(unit - unit) ? V(bias - unit) : bias)) >> s;
  }
  return V(v + bias) >> s;
}

// v / 2^s rounded by kMode for s > 0; v * 2^-s for s <= 0.
// Needs |v| + 2^(s-1) and v * 2^-s to fit Wide.
template <Rounding kMode, typename Wide>
YHW_HD Wide round_shift(Wide v, int s) {
  if (s <= 0) {
    return shift_left(v, -s);
  }
  return shift_rounded<kMode>(v, s, rounding_bias<kMode, Wide>(s), Wide(1));
}

// v brought into a format of `bits` bits with codes lo..hi.
template <Overflow kMode, typename Wide>
YHW_HD Wide overflow(Wide v, Wide lo, Wide hi, int bits) {
  if (kMode == Overflow::kWrap) {
    const Wide mask = shift_left(Wide(1), bits) - Wide(1);
    return ((v - lo) & mask) + lo;
  }
  const Wide low = (kMode == Overflow::kSaturateSymmetric && lo < Wide(0)) ? Wide(-hi) : lo;
  return v < low ? low : (v > hi ? hi : v);
}

}  // namespace yhw

#endif  // YHW_CORE_ROUNDING_H_
