// SPDX-License-Identifier: Apache-2.0
// What the argument checks of the operators share; each operator's own are in <operator>_checks.h. A check is called
// once by an operator, and its message names the operator, what was expected and what was found.
#ifndef YHW_CHECKS_H_
#define YHW_CHECKS_H_

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

namespace yhw {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kMinBits = 2;
constexpr int64_t kMaxBits = 16;
// Limit of yolo_hw/fixedpoint.py: 2^frac and 2^-frac are normal float32 numbers.
constexpr int kMaxAbsFrac = 64;

}  // namespace yhw

#endif  // YHW_CHECKS_H_
