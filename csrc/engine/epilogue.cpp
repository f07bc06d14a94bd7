// SPDX-License-Identifier: Apache-2.0
#include "epilogue.h"

#include <algorithm>
#include <limits>

#include "../core/with_modes.h"

namespace yhw {
namespace {

constexpr int64_t kInt32Max = std::numeric_limits<int32_t>::max();
constexpr int kMaxNarrowShift = 31;
constexpr size_t kByteCodes = 256;

// The constants of one lane; false if 32 bits are not enough. `limit` is the largest magnitude of an accumulator and
// `saturated` a magnitude of the rounded product from which on the code saturates. On return `reach` is the largest
// magnitude of an accumulator that has to be told apart from larger ones: all where 32 bits are enough for them.
bool add_lane(LaneShift& lanes, Rounding rounding, int shift, int64_t mul, int64_t limit, int64_t saturated,
              int64_t& reach) {
  if (shift < 0 || shift > kMaxNarrowShift || mul < 0) {
    return false;
  }
  const auto bias = with_rounding(rounding, [&](auto mode) { return rounding_bias<mode(), int64_t>(shift); });
  // Twice the bias: half_even adds one more, and the intermediate sums stay in range for either sign.
  const auto fits = [&](int64_t acc) { return acc <= kInt32Max && acc * mul + 2 * bias + 2 <= kInt32Max; };
  reach = limit;
  if (!fits(limit) && mul > 0) {
    reach = std::min(limit, (shift_left(saturated + 1, shift) + mul - 1) / mul);
  }
  if (!fits(reach)) {
    return false;
  }
  lanes.shift.push_back(shift);
  lanes.bias.push_back(static_cast<int32_t>(bias));
  lanes.unit.push_back(shift > 0 ? 1 : 0);
  return true;
}

bool prepare_lanes(Epilogue& e) {
  const Requantiser& spec = e.spec;
  const auto& p = spec.params;
  if (spec.acc_bits > 32 || spec.overflow == Overflow::kWrap) {
    return false;
  }
  const int64_t limit = int64_t{1} << (spec.acc_bits - 1);
  for (size_t lane = 0; lane < spec.shift.size(); ++lane) {
    int64_t above = 0, below = 0;
    if (!add_lane(e.positive, spec.rounding, spec.shift[lane], p.mul_pos, limit, std::max(p.code_hi, int64_t{0}),
                  above) ||
        !add_lane(e.negative, spec.rounding, spec.shift[lane] + p.shift_neg, p.mul_neg, limit,
                  std::max(-p.code_lo, int64_t{0}), below)) {
      return false;
    }
    e.acc_lo.push_back(static_cast<int32_t>(-below));
    e.acc_hi.push_back(static_cast<int32_t>(above));
    e.clamps = e.clamps || above < limit || below < limit;
  }
  // Lanes behind the last channel hold anything that is in range; their codes are never stored.
  const size_t padded = (spec.shift.size() + kLanes - 1) / kLanes * kLanes;
  for (auto* lanes : {&e.positive.shift, &e.positive.bias, &e.positive.unit, &e.negative.shift, &e.negative.bias,
                      &e.negative.unit, &e.acc_lo, &e.acc_hi}) {
    lanes->resize(padded, 0);
  }
  return true;
}

}  // namespace

Epilogue make_epilogue(const Requantiser& spec, int first, int channels, Storage out) {
  Epilogue e;
  e.spec = spec;
  e.spec.shift.assign(spec.shift.begin() + first, spec.shift.begin() + first + channels);
  e.channels = channels;
  e.out = out;
  const auto& p = spec.params;
  e.two_sided = p.mul_neg != p.mul_pos || p.shift_neg != 0;
  e.narrow = prepare_lanes(e);
  const bool symmetric = spec.overflow == Overflow::kSaturateSymmetric && p.code_lo < 0;
  e.code_lo = static_cast<int32_t>(symmetric ? -p.code_hi : p.code_lo);
  e.code_hi = static_cast<int32_t>(p.code_hi);
  for (const Code code : spec.table) {
    e.table.push_back(code + out.zero);
  }
  if (!e.table.empty() && e.table.size() <= kByteCodes && out.bytes == 1) {
    e.byte_table.assign(e.table.begin(), e.table.end());
    e.byte_table.resize(kByteCodes);
  }
  if (e.table.empty()) {
    e.code_lo = std::max(e.code_lo, static_cast<int32_t>(p.clamp_lo));
    e.code_hi = std::min(e.code_hi, static_cast<int32_t>(p.clamp_hi));
  }
  return e;
}

}  // namespace yhw
