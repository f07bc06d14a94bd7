// SPDX-License-Identifier: Apache-2.0
#ifndef YHW_ENGINE_REQUANTISER_H_
#define YHW_ENGINE_REQUANTISER_H_

#include <cstdint>
#include <vector>

#include "../core/requant.h"
#include "view.h"

namespace yhw {

// How a node's accumulators become codes.
struct Requantiser {
  RequantParams<int64_t> params{};
  Rounding rounding = Rounding::kHalfUp;
  Overflow overflow = Overflow::kSaturate;
  std::vector<int32_t> shift;  // [channels]
  std::vector<Code> table;     // [2^code_bits] or empty
  bool narrow = false;         // acc * mul, the rounding constant included, provably fits 32 bits
};

}  // namespace yhw

#endif  // YHW_ENGINE_REQUANTISER_H_
