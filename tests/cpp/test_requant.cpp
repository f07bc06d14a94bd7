// SPDX-License-Identifier: Apache-2.0
// From accumulators to codes: the formulas of docs/numerics.md section 3.
#include <cmath>
#include <cstdint>

#include "check.h"
#include "core/requant.h"

namespace {

using yhw::Overflow;
using yhw::RequantParams;
using yhw::Rounding;

constexpr int64_t kNone = 1;

template <typename Wide>
RequantParams<Wide> int8_params(Wide mul_neg, int shift_neg, Wide clamp_lo = -128, Wide clamp_hi = 127) {
  return {static_cast<Wide>(kNone), mul_neg, shift_neg, -128, 127, 8, clamp_lo, clamp_hi};
}

template <typename Wide>
Wide half_up(Wide acc, int shift, const RequantParams<Wide>& p) {
  return yhw::requant<Rounding::kHalfUp, Overflow::kSaturate>(acc, shift, p);
}

// The default slope 51 / 2^9 equals round(0.1 x), ties up, on every negative 8-bit code.
void test_default_leaky_slope() {
  for (int x = -128; x < 0; ++x) {
    const int want = static_cast<int>(std::floor(0.1 * x + 0.5));
    CHECK_EQUAL(half_up<int>(x, 0, int8_params<int>(51, 9)), want, x);
    CHECK_EQUAL(half_up<int64_t>(x, 0, int8_params<int64_t>(51, 9)), want, x);
  }
}

// floor((acc * 51) / 2^(s + 9) + 1/2): one rounding, not one of the shift and one of the slope.
void test_leaky_rounds_once() {
  bool differs = false;
  for (int acc = -20000; acc <= 20000; ++acc) {
    const double exact = acc < 0 ? acc * 51.0 / 4096.0 : acc / 8.0;  // exact in double
    const double code = std::floor(exact + 0.5);
    const int want = static_cast<int>(code < -128 ? -128 : (code > 127 ? 127 : code));
    CHECK_EQUAL(half_up<int>(acc, 3, int8_params<int>(51, 9)), want, acc);
    const double twice = std::floor(std::floor(acc / 8.0 + 0.5) * 51.0 / 512.0 + 0.5);
    differs = differs || (acc < 0 && twice != std::floor(exact + 0.5));
  }
  CHECK_EQUAL(differs, true, 0);
}

void test_clamp_and_left_shift() {
  const auto relu6 = int8_params<int>(1, 0, 0, 96);
  const int cases[][3] = {{-50, 0, 0}, {95, 0, 95}, {97, 0, 96}, {5, -4, 80}, {7, -4, 96}, {190, 1, 95}};
  for (const auto& c : cases) {
    CHECK_EQUAL(half_up<int>(c[0], c[1], relu6), c[2], c[0]);
  }
}

// The table is indexed by the code before the clamp.
void test_code_before_table() {
  const auto p = int8_params<int>(1, 0, 0, 0);
  for (int acc = -600; acc <= 600; ++acc) {
    const int want = acc < -256 ? -128 : (acc > 254 ? 127 : static_cast<int>(std::floor(acc / 2.0)));
    CHECK_EQUAL((yhw::requant_code<Rounding::kFloor, Overflow::kSaturate>(acc, 1, p)), want, acc);
  }
}

}  // namespace

int main() {
  test_default_leaky_slope();
  test_leaky_rounds_once();
  test_clamp_and_left_shift();
  test_code_before_table();
  return check::result();
}
