// SPDX-License-Identifier: Apache-2.0
// What the argument checks of the operators share; each operator's own are in <operator>_checks.h. A check is called
// once by an operator, and its message names the operator, what was expected and what was found.
#ifndef YHW_CHECKS_H_
#define YHW_CHECKS_H_

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "core/fake_quant.h"

namespace yhw {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kMinBits = 2;
constexpr int64_t kMaxBits = 16;
// Limit of yolo_hw/fixedpoint.py: 2^frac and 2^-frac are normal float32 numbers.
constexpr int kMaxAbsFrac = 64;

// Checks a format of at most max_bits bits and its modes; returns its codes.
inline CodeRange check_format(const char* op, int64_t bits, int64_t max_bits, bool is_signed, int64_t rounding,
                              int64_t overflow) {
  STD_TORCH_CHECK(bits >= kMinBits && bits <= max_bits, op, ": bits must be in [", kMinBits, ", ", max_bits, "], got ",
                  bits);
  STD_TORCH_CHECK(rounding >= 0 && rounding <= 3, op, ": rounding must be in [0, 3], got ", rounding);
  STD_TORCH_CHECK(overflow >= 0 && overflow <= 2, op, ": overflow must be in [0, 2], got ", overflow);
  const int width = static_cast<int>(bits), hi = (1 << (width - (is_signed ? 1 : 0))) - 1;
  return {is_signed ? -hi - 1 : 0, hi, width};
}

}  // namespace yhw

#endif  // YHW_CHECKS_H_
