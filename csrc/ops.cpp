// SPDX-License-Identifier: Apache-2.0
// The operators as torch sees them: every schema, no code. The kernels register themselves at the end of their files in
// cpu/ and cuda/; fake kernels and autograd are in yolo_hw/ops/.
#include "library.h"

YHW_LIBRARY(m) {
  // x: [...] float32 or float64; frac: [1] or [x.size(axis)] int32; rounding, overflow: enums of core/rounding.h.
  m.def(
      "fake_quant_pow2(Tensor x, Tensor frac, int axis, int bits, bool signed, int rounding, int overflow) -> Tensor");
  // grad: like x.
  m.def(
      "fake_quant_pow2_backward(Tensor grad, Tensor x, Tensor frac, int axis, int bits, bool signed, int rounding, "
      "int overflow) -> Tensor");
}
