// SPDX-License-Identifier: Apache-2.0
// The arithmetic that the CPU and the CUDA operators share: real numbers to the grid of a format.
#include <cmath>
#include <limits>

#include "check.h"
#include "core/fake_quant.h"

namespace {

using yhw::CodeRange;
using yhw::Overflow;
using yhw::Rounding;

constexpr CodeRange kInt8{-128, 127, 8};

// x and the result of half_up, half_even, half_away, floor; written out by hand.
constexpr double kTable[][5] = {
    {-2.5, -2, -2, -3, -3}, {-1.5, -1, -2, -2, -2},  {-0.5, 0, 0, -1, -1}, {0.5, 1, 0, 1, 0},  {1.5, 2, 2, 2, 1},
    {2.5, 3, 2, 3, 2},      {-0.75, -1, -1, -1, -1}, {-0.25, 0, 0, 0, -1}, {0.25, 0, 0, 0, 0}, {0.75, 1, 1, 1, 0},
};

template <typename Real>
void test_table() {
  for (const auto& row : kTable) {
    const Real x = static_cast<Real>(row[0]);
    CHECK_EQUAL(yhw::round_real<Rounding::kHalfUp>(x), row[1], 4 * row[0]);
    CHECK_EQUAL(yhw::round_real<Rounding::kHalfEven>(x), row[2], 4 * row[0]);
    CHECK_EQUAL(yhw::round_real<Rounding::kHalfAway>(x), row[3], 4 * row[0]);
    CHECK_EQUAL(yhw::round_real<Rounding::kFloor>(x), row[4], 4 * row[0]);
  }
}

// The numbers next to a tie, where x - floor(x) is not exact.
template <typename Real>
void test_neighbours_of_ties() {
  for (int n = -300; n <= 300; ++n) {
    const Real tie = static_cast<Real>(n) + Real(0.5);
    const Real below = std::nextafter(tie, static_cast<Real>(n)), above = std::nextafter(tie, static_cast<Real>(n + 1));
    CHECK_EQUAL(yhw::round_real<Rounding::kHalfUp>(below), n, n);
    CHECK_EQUAL(yhw::round_real<Rounding::kHalfEven>(below), n, n);
    CHECK_EQUAL(yhw::round_real<Rounding::kHalfAway>(below), n, n);
    CHECK_EQUAL(yhw::round_real<Rounding::kHalfUp>(above), n + 1, n);
    CHECK_EQUAL(yhw::round_real<Rounding::kHalfEven>(above), n + 1, n);
    CHECK_EQUAL(yhw::round_real<Rounding::kHalfAway>(above), n + 1, n);
    CHECK_EQUAL(yhw::round_real<Rounding::kFloor>(above), n, n);
  }
}

template <Overflow kOverflow, typename Real>
Real quantised(Real x, int frac) {
  return yhw::fake_quant<Rounding::kHalfAway, kOverflow>(x, yhw::power_of_two<Real>(frac),
                                                         yhw::power_of_two<Real>(-frac), kInt8);
}

template <typename Real>
void test_range() {
  const Real infinity = std::numeric_limits<Real>::infinity();
  for (Real x : {Real(1e30), Real(3e9), Real(127.5), infinity}) {
    CHECK_EQUAL((quantised<Overflow::kSaturate>(x, 0)), 127, 0);
    CHECK_EQUAL((quantised<Overflow::kSaturate>(-x, 0)), -128, 0);
    CHECK_EQUAL((quantised<Overflow::kSaturateSymmetric>(-x, 0)), -127, 0);
  }
  CHECK_EQUAL((quantised<Overflow::kSaturate>(Real(2.4), 2)), Real(2.5), 0);
  // 2^40 + 5 and its tie neighbour wrap by their low bits; half away from zero keeps the sign of the whole number.
  CHECK_EQUAL((quantised<Overflow::kWrap>(1099511627776.0 + 5.0, 0)), 5, 0);
  CHECK_EQUAL((quantised<Overflow::kWrap>(-1099511627776.0 - 0.5, 0)), -1, 0);
  CHECK_EQUAL((quantised<Overflow::kWrap>(Real(200), 0)), -56, 0);
  CHECK_EQUAL(std::signbit(quantised<Overflow::kSaturate>(Real(-0.0), 0)), false, 0);
}

template <typename Real>
void test_nan_and_gradient() {
  const Real nan = std::numeric_limits<Real>::quiet_NaN(), infinity = std::numeric_limits<Real>::infinity();
  CHECK_EQUAL(std::isnan(quantised<Overflow::kSaturate>(nan, 0)), true, 0);
  CHECK_EQUAL(std::isnan(quantised<Overflow::kWrap>(nan, 0)), true, 0);
  CHECK_EQUAL(std::isnan(quantised<Overflow::kWrap>(infinity, 0)), true, 0);
  const auto grad = [](Real x) {
    return yhw::fake_quant_grad<Rounding::kHalfUp, Overflow::kSaturate>(Real(3), x, Real(2), kInt8);
  };
  CHECK_EQUAL(grad(Real(63.5)), 3, 0);     // code 127
  CHECK_EQUAL(grad(Real(63.75)), 0, 0);    // 127.5 rounds to 128
  CHECK_EQUAL(grad(Real(-64.25)), 3, 0);   // -128.5 rounds to -128
  CHECK_EQUAL(grad(Real(-64.375)), 0, 0);  // -128.75 rounds to -129
  CHECK_EQUAL(grad(nan), 0, 0);
  CHECK_EQUAL(grad(-infinity), 0, 0);
}

}  // namespace

int main() {
  test_table<float>();
  test_table<double>();
  test_neighbours_of_ties<float>();
  test_neighbours_of_ties<double>();
  test_range<float>();
  test_range<double>();
  test_nan_and_gradient<float>();
  test_nan_and_gradient<double>();
  return check::result();
}
