// SPDX-License-Identifier: Apache-2.0
// 16-bit floating point to float32 and back, in integer and float steps without branches, so that loops become vector
// code for every instruction set with the same bits. To 16 bits rounds to nearest even; NaN stays NaN.
#ifndef YHW_CPU_HALF_H_
#define YHW_CPU_HALF_H_

#include <cstdint>

#include "../core/config.h"

namespace yhw {

YHW_HD float float_of_bits(uint32_t bits) {
  float value = 0;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}

YHW_HD uint32_t bits_of_float(float value) {
  uint32_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits;
}

constexpr uint32_t kFloatSign = 0x80000000u;
constexpr uint32_t kFloatInfinity = 0x7f800000u;

// How an element type lies in memory (Stored) and is computed (Real).
struct Float32 {
  using Stored = float;
  using Real = float;
  YHW_HD Real load(Stored x) { return x; }
  YHW_HD Stored store(Real x) { return x; }
};

struct Float64 {
  using Stored = double;
  using Real = double;
  YHW_HD Real load(Stored x) { return x; }
  YHW_HD Stored store(Real x) { return x; }
};

struct Bfloat16 {
  using Stored = uint16_t;
  using Real = float;
  YHW_HD Real load(Stored x) { return float_of_bits(static_cast<uint32_t>(x) << 16); }
  YHW_HD Stored store(Real x) {
    const uint32_t bits = bits_of_float(x);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const uint32_t quiet_nan = (bits >> 16) | 0x40u;
    return static_cast<Stored>((bits & ~kFloatSign) > kFloatInfinity ? quiet_nan : rounded);
  }
};

struct Float16 {
  using Stored = uint16_t;
  using Real = float;
  YHW_HD Real load(Stored x) {
    const uint32_t half = x, sign = (half & 0x8000u) << 16, magnitude = (half & 0x7fffu) << 13;
    // The exponent fields differ by 127 - 15; the product is exact and gives denormals their value, too.
    const uint32_t finite = bits_of_float(float_of_bits(magnitude) * 0x1p112f);
    const uint32_t special = magnitude | kFloatInfinity;
    return float_of_bits(sign | (magnitude >= 0x0f800000u ? special : finite));
  }
  YHW_HD Stored store(Real x) {
    const uint32_t bits = bits_of_float(x), sign = (bits & kFloatSign) >> 16, magnitude = bits & ~kFloatSign;
    // Normal: 13 bits less of mantissa, the exponent field less 112, rounded as an integer.
    const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    // Denormal, below 2^-14: 0.5 + x has its last place at 2^-24, that of the 16-bit denormals.
    const uint32_t denormal = bits_of_float(float_of_bits(magnitude) + 0.5f) - bits_of_float(0.5f);
    const uint32_t large = magnitude > kFloatInfinity ? 0x7e00u : 0x7c00u;  // from 65520 on infinity, or NaN
    const uint32_t finite = magnitude < (113u << 23) ? denormal : normal;
    return static_cast<Stored>(sign | (magnitude >= 0x477ff000u ? large : finite));
  }
};

}  // namespace yhw

#endif  // YHW_CPU_HALF_H_
