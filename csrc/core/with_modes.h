// SPDX-License-Identifier: Apache-2.0
// From modes as values to modes as types, for loops that are compiled once per mode.
#ifndef YHW_CORE_WITH_MODES_H_
#define YHW_CORE_WITH_MODES_H_

#include <type_traits>

#include "rounding.h"

namespace yhw {

template <Rounding kRounding>
using RoundingTag = std::integral_constant<Rounding, kRounding>;
template <Overflow kOverflow>
using OverflowTag = std::integral_constant<Overflow, kOverflow>;

// body(tag of the rounding).
template <typename Body>
inline __attribute__((always_inline)) auto with_rounding(Rounding rounding, const Body& body) {
  switch (rounding) {
    case Rounding::kHalfEven:
      return body(RoundingTag<Rounding::kHalfEven>{});
    case Rounding::kHalfAway:
      return body(RoundingTag<Rounding::kHalfAway>{});
    case Rounding::kFloor:
      return body(RoundingTag<Rounding::kFloor>{});
    case Rounding::kHalfUp:
      break;
  }
  return body(RoundingTag<Rounding::kHalfUp>{});
}

// body(tag of the overflow).
template <typename Body>
inline __attribute__((always_inline)) auto with_overflow(Overflow overflow, const Body& body) {
  switch (overflow) {
    case Overflow::kSaturateSymmetric:
      return body(OverflowTag<Overflow::kSaturateSymmetric>{});
    case Overflow::kWrap:
      return body(OverflowTag<Overflow::kWrap>{});
    case Overflow::kSaturate:
      break;
  }
  return body(OverflowTag<Overflow::kSaturate>{});
}

// body(tag of the rounding, tag of the overflow).
template <typename Body>
inline __attribute__((always_inline)) auto with_modes(Rounding rounding, Overflow overflow, const Body& body) {
  return with_overflow(overflow, [&](auto overflow_tag) {
    return with_rounding(rounding, [&](auto rounding_tag) { return body(rounding_tag, overflow_tag); });
  });
}

}  // namespace yhw

#endif  // YHW_CORE_WITH_MODES_H_
