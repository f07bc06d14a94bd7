// SPDX-License-Identifier: Apache-2.0
// The arithmetic that the CPU and the CUDA operators share: real numbers to the grid of a format.
#include <cmath>
#include <limits>

#include "check.h"
#include "core/fake_quant.h"
#include "core/learned_step.h"

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

// The range of scaled values that pass, against rounding and comparing codes, at its ends and their neighbours.
template <Rounding kRounding, Overflow kOverflow, typename Real>
void test_pass_range(const CodeRange& range) {
  const auto pass = yhw::pass_range<kRounding, kOverflow, Real>(range);
  const Real low = static_cast<Real>(yhw::lowest_code<kOverflow>(range)), high = static_cast<Real>(range.hi);
  for (const Real end : {pass.first, pass.last}) {
    for (const Real x : {end, std::nextafter(end, Real(-1e9)), std::nextafter(end, Real(1e9))}) {
      const Real code = yhw::round_real<kRounding>(x);
      CHECK_EQUAL(x >= pass.first && x <= pass.last, code >= low && code <= high, x);
    }
  }
}

template <Rounding kRounding>
void test_pass_ranges() {
  for (int bits = 2; bits <= 16; ++bits) {
    const int half = 1 << (bits - 1);
    for (const CodeRange& range : {CodeRange{-half, half - 1, bits}, CodeRange{0, 2 * half - 1, bits}}) {
      test_pass_range<kRounding, Overflow::kSaturate, float>(range);
      test_pass_range<kRounding, Overflow::kSaturate, double>(range);
      test_pass_range<kRounding, Overflow::kSaturateSymmetric, float>(range);
      test_pass_range<kRounding, Overflow::kSaturateSymmetric, double>(range);
    }
  }
}

void test_learned_fracs() {
  CHECK_EQUAL(yhw::frac_of_log2_threshold(0.0, 7), 7, 0);
  CHECK_EQUAL(yhw::frac_of_log2_threshold(std::nextafter(0.0, 1.0), 7), 6, 0);
  CHECK_EQUAL(yhw::frac_of_log2_threshold(-2.5, 7), 9, 0);
  CHECK_EQUAL(yhw::frac_of_scale(1.0), 0, 0);
  CHECK_EQUAL(yhw::frac_of_scale(0.70710678118654746), 1, 0);  // below sqrt(1/2)
  CHECK_EQUAL(yhw::frac_of_scale(0.70710678118654757), 0, 0);  // above
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  for (const double bad : {nan, infinity, -infinity}) {
    CHECK_EQUAL(yhw::frac_of_log2_threshold(bad, 7), yhw::kNoFrac, 0);
    CHECK_EQUAL(yhw::frac_of_scale(bad), yhw::kNoFrac, 0);
  }
  CHECK_EQUAL(yhw::frac_of_scale(0.0), yhw::kNoFrac, 0);
  CHECK_EQUAL(yhw::frac_of_scale(-1.0), yhw::kNoFrac, 0);
}

// x - trunc(x / 2^bits) * 2^bits equals fmod for every size of x.
template <typename Real>
void test_low_bits() {
  const Real modulus = 256;
  for (Real x = Real(0.3); x < Real(1e30); x *= Real(1.7)) {
    for (const Real signed_x : {x, -x, std::floor(x), std::floor(x) + Real(0.5)}) {
      CHECK_EQUAL(yhw::low_bits(signed_x, 8), std::fmod(signed_x, modulus), signed_x);
    }
  }
}

}  // namespace

int main() {
  test_pass_ranges<Rounding::kHalfUp>();
  test_pass_ranges<Rounding::kHalfEven>();
  test_pass_ranges<Rounding::kHalfAway>();
  test_pass_ranges<Rounding::kFloor>();
  test_learned_fracs();
  test_low_bits<float>();
  test_low_bits<double>();
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
