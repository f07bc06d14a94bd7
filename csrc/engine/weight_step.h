// SPDX-License-Identifier: Apache-2.0
// Weights of one dot product step: kStepBytes bytes of input by kLanes output channels.
#ifndef YHW_ENGINE_WEIGHT_STEP_H_
#define YHW_ENGINE_WEIGHT_STEP_H_

#include <cstring>

#include "kernels.h"

namespace yhw {

// Where the weights of a step lie, for codes of `code_bytes` bytes.
class WeightStep {
 public:
  WeightStep(WeightLayout layout, int code_bytes) : layout_(layout), code_bytes_(code_bytes) {}

  int codes() const { return kStepBytes / code_bytes_; }
  int bytes() const { return kLanes * codes() * (narrow() ? 1 : 2); }

  // The weights of codes of one byte and output channel `lane` of the step at `to`.
  void set_bytes(uint8_t* to, int lane, const int8_t* weights) const {
    if (layout_ == WeightLayout::kBytes) {
      std::memcpy(to + lane * kStepBytes, weights, kStepBytes);
      return;
    }
    const int16_t even[] = {weights[0], weights[2]}, odd[] = {weights[1], weights[3]};
    std::memcpy(to + lane * sizeof(even), even, sizeof(even));
    std::memcpy(to + (kLanes + lane) * sizeof(odd), odd, sizeof(odd));
  }

  // The weight of code `i` and output channel `lane` of the step at `to`.
  void set(uint8_t* to, int lane, int i, int16_t weight) const {
    if (narrow()) {
      to[lane * 4 + i] = static_cast<uint8_t>(weight);
    } else if (code_bytes_ == 1) {
      std::memcpy(to + ((i % 2) * kLanes * 2 + lane * 2 + i / 2) * 2, &weight, sizeof(weight));
    } else {
      std::memcpy(to + (lane * 2 + i) * 2, &weight, sizeof(weight));
    }
  }

 private:
  bool narrow() const { return code_bytes_ == 1 && layout_ == WeightLayout::kBytes; }

  WeightLayout layout_;
  int code_bytes_;
};

}  // namespace yhw

#endif  // YHW_ENGINE_WEIGHT_STEP_H_
