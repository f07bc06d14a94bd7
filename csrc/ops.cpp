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
  // x: [N, C, H, W] uint8 or int8; weight: [K, C / groups, R, S] int8; bias, shift: [K] int32; requant: mul_pos,
  // mul_neg, shift_neg, code_lo, code_hi, code_bits, clamp_lo, clamp_hi, rounding, overflow; table: [2^code_bits] int8,
  // uint8 or int16, or [0]. Gives [N, K, Ho, Wo], channels last.
  m.def(
      "int_conv2d(Tensor x, Tensor weight, Tensor bias, Tensor shift, int[] stride, int[] padding, int[] dilation, "
      "int groups, int[] requant, Tensor table) -> Tensor");
}
