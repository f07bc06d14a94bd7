// SPDX-License-Identifier: Apache-2.0
// The activation of a sum, one definition for vectors of every instruction set and for a GPU's threads.
#ifndef YHW_SPARSE_ACTIVATION_H_
#define YHW_SPARSE_ACTIVATION_H_

#include "../core/config.h"

namespace yhw {
namespace sparse {

// Numbers as in yolo_hw/ops/sparse_conv2d.py.
enum class Activation : int { kNone = 0, kRelu = 1, kRelu6 = 2, kLeaky = 3 };

// Isa: Vector, broadcast, maximum, minimum (the second operand where one is NaN), leaky.
template <class Isa>
YHW_HD typename Isa::Vector activate(Activation activation, typename Isa::Vector slope, typename Isa::Vector v) {
  switch (activation) {
    case Activation::kLeaky:
      return Isa::leaky(v, slope);
    case Activation::kRelu:
      return Isa::maximum(Isa::broadcast(0), v);
    case Activation::kRelu6:
      return Isa::minimum(Isa::broadcast(6), Isa::maximum(Isa::broadcast(0), v));
    default:
      return v;
  }
}

}  // namespace sparse
}  // namespace yhw

#endif  // YHW_SPARSE_ACTIVATION_H_
