// SPDX-License-Identifier: Apache-2.0
#ifndef YHW_ENGINE_REQUANTISER_H_
#define YHW_ENGINE_REQUANTISER_H_

#include <cstdint>
#include <vector>

#include "../core/requant.h"
#include "view.h"

namespace yhw {

// How a node's accumulators become codes, as the graph states it.
struct Requantiser {
  RequantParams<int64_t> params{};
  Rounding rounding = Rounding::kHalfUp;
  Overflow overflow = Overflow::kSaturate;
  std::vector<int32_t> shift;  // [channels]
  std::vector<Code> table;     // [2^code_bits] or empty
  int acc_bits = 32;           // proven width of the accumulators
};

}  // namespace yhw

#endif  // YHW_ENGINE_REQUANTISER_H_
