// SPDX-License-Identifier: Apache-2.0
// round_shift and overflow against the tie table and against division, docs/numerics.md section 2.
#include <cstdint>

#include "check.h"
#include "core/rounding.h"

namespace {

using yhw::Overflow;
using yhw::Rounding;

// v, s, and the result of half_up, half_even, half_away, floor; written out by hand.
constexpr int kTable[][6] = {
    {-5, 1, -2, -2, -3, -3}, {-3, 1, -1, -2, -2, -2},      {-1, 1, 0, 0, -1, -1},
    {1, 1, 1, 0, 1, 0},      {3, 1, 2, 2, 2, 1},           {5, 1, 3, 2, 3, 2},
    {-6, 2, -1, -2, -2, -2}, {-5, 2, -1, -1, -1, -2},      {-3, 2, -1, -1, -1, -1},
    {-2, 2, 0, 0, -1, -1},   {-1, 2, 0, 0, 0, -1},         {2, 2, 1, 0, 1, 0},
    {6, 2, 2, 2, 2, 1},      {7, 2, 2, 2, 2, 1},           {0, 3, 0, 0, 0, 0},
    {-7, 0, -7, -7, -7, -7}, {-7, -2, -28, -28, -28, -28}, {100, -1, 200, 200, 200, 200},
};

template <typename Wide>
Wide shifted(Rounding mode, Wide v, int s) {
  switch (mode) {
    case Rounding::kHalfUp:
      return yhw::round_shift<Rounding::kHalfUp>(v, s);
    case Rounding::kHalfEven:
      return yhw::round_shift<Rounding::kHalfEven>(v, s);
    case Rounding::kHalfAway:
      return yhw::round_shift<Rounding::kHalfAway>(v, s);
    default:
      return yhw::round_shift<Rounding::kFloor>(v, s);
  }
}

// v / 2^s by the words of the specification, with division and doubled distances instead of shifts.
int64_t divided(Rounding mode, int64_t v, int s) {
  const int64_t unit = int64_t{1} << s;
  const int64_t below = v >= 0 ? v / unit : -((-v + unit - 1) / unit);
  const int64_t distance = 2 * (v - below * unit) - unit;  // negative: nearer to below; zero: a tie
  switch (mode) {
    case Rounding::kHalfUp:
      return below + (distance >= 0);
    case Rounding::kHalfEven:
      return below + (distance > 0 || (distance == 0 && below % 2 != 0));
    case Rounding::kHalfAway:
      return below + (distance > 0 || (distance == 0 && v > 0));
    default:
      return below;
  }
}

constexpr Rounding kModes[] = {Rounding::kHalfUp, Rounding::kHalfEven, Rounding::kHalfAway, Rounding::kFloor};

void test_table() {
  for (const auto& row : kTable) {
    for (int m = 0; m < 4; ++m) {
      CHECK_EQUAL(shifted<int>(kModes[m], row[0], row[1]), row[2 + m], row[0]);
      CHECK_EQUAL(shifted<int64_t>(kModes[m], row[0], row[1]), row[2 + m], row[0]);
    }
  }
}

void test_equals_division() {
  for (Rounding mode : kModes) {
    for (int s = 1; s <= 12; ++s) {
      for (int v = -9000; v <= 9000; ++v) {
        const int64_t want = divided(mode, v, s);
        CHECK_EQUAL(shifted<int>(mode, v, s), want, v);
        CHECK_EQUAL(shifted<int64_t>(mode, v, s), want, v);
      }
    }
    for (int64_t v : {int64_t{INT32_MIN}, int64_t{INT32_MAX}, -(int64_t{1} << 46) - 1, (int64_t{1} << 46) - 1}) {
      for (int s = 13; s <= 40; ++s) {
        CHECK_EQUAL(shifted<int64_t>(mode, v, s), divided(mode, v, s), v);
      }
    }
  }
}

void test_overflow() {
  for (int v = -700; v <= 700; ++v) {
    const int clamped = v < -8 ? -8 : (v > 7 ? 7 : v);
    CHECK_EQUAL(yhw::overflow<Overflow::kSaturate>(v, -8, 7, 4), clamped, v);
    CHECK_EQUAL(yhw::overflow<Overflow::kSaturateSymmetric>(v, -8, 7, 4), clamped == -8 ? -7 : clamped, v);
    int wrapped = v;  // counting, the meaning of "keep the low bits"
    while (wrapped > 7) wrapped -= 16;
    while (wrapped < -8) wrapped += 16;
    CHECK_EQUAL(yhw::overflow<Overflow::kWrap>(v, -8, 7, 4), wrapped, v);

    const int positive = v < 0 ? 0 : (v > 15 ? 15 : v);
    CHECK_EQUAL(yhw::overflow<Overflow::kSaturate>(v, 0, 15, 4), positive, v);
    CHECK_EQUAL(yhw::overflow<Overflow::kSaturateSymmetric>(v, 0, 15, 4), positive, v);
    CHECK_EQUAL(yhw::overflow<Overflow::kWrap>(v, 0, 15, 4), wrapped < 0 ? wrapped + 16 : wrapped, v);
  }
}

}  // namespace

int main() {
  test_table();
  test_equals_division();
  test_overflow();
  return check::result();
}
