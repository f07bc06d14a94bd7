// SPDX-License-Identifier: Apache-2.0
// The operators as torch sees them: every schema, no code. The kernels register themselves at the end of their files in
// cpu/ and cuda/; fake kernels and autograd are in yolo_hw/ops/.
#include "library.h"

YHW_LIBRARY(m) {
  // The instruction set of the CPU kernels: "baseline", "avx2" or "avx512"; "best" chooses.
  m.def("cpu_path() -> str");
  m.def("set_cpu_path(str name) -> ()");

  // x: [...] float32, float64, float16 or bfloat16; fracs: [1] or [x.size(axis)] int32, in the place of frac; rounding,
  // overflow: enums of core/rounding.h; out: like x, dense. The .out forms return nothing: torch.compile takes no
  // operator that returns an argument.
  m.def(
      "fake_quant_pow2(Tensor x, int frac, Tensor? fracs, int axis, int bits, bool signed, int rounding, int overflow) "
      "-> Tensor");
  m.def(
      "fake_quant_pow2.out(Tensor x, int frac, Tensor? fracs, int axis, int bits, bool signed, int rounding, "
      "int overflow, *, Tensor(a!) out) -> ()");
  // grad: like x.
  m.def(
      "fake_quant_pow2_backward(Tensor grad, Tensor x, int frac, Tensor? fracs, int axis, int bits, bool signed, "
      "int rounding, int overflow) -> Tensor");
  m.def(
      "fake_quant_pow2_backward.out(Tensor grad, Tensor x, int frac, Tensor? fracs, int axis, int bits, bool signed, "
      "int rounding, int overflow, *, Tensor(a!) out) -> ()");
  // The same kernels without a gradient formula (fake_quant_pow2.h).
  m.def(
      "_fake_quant_pow2(Tensor x, int frac, Tensor? fracs, int axis, int bits, bool signed, int rounding, "
      "int overflow) -> Tensor");
  m.def(
      "_fake_quant_pow2_backward(Tensor grad, Tensor x, int frac, Tensor? fracs, int axis, int bits, bool signed, "
      "int rounding, int overflow) -> Tensor");
  // fracs: one [1] or [xs[i].size(axis)] int32 for each of xs.
  m.def(
      "fake_quant_pow2_many(Tensor[] xs, Tensor[] fracs, int axis, int bits, bool signed, int rounding, int overflow) "
      "-> Tensor[]");
  m.def(
      "fake_quant_pow2_many_backward(Tensor[] grads, Tensor[] xs, Tensor[] fracs, int axis, int bits, bool signed, "
      "int rounding, int overflow) -> Tensor[]");

  // parameter: [1] or [x.size(axis)] float32 or float64; gradient: StepGradient of core/learned_step.h.
  m.def(
      "fake_quant_learned(Tensor x, Tensor parameter, int axis, int bits, bool signed, int rounding, int overflow, "
      "int gradient, float grad_scale) -> Tensor");
  m.def(
      "fake_quant_learned.out(Tensor x, Tensor parameter, int axis, int bits, bool signed, int rounding, int overflow, "
      "int gradient, *, Tensor(a!) out) -> ()");
  m.def(
      "_fake_quant_learned(Tensor x, Tensor parameter, int axis, int bits, bool signed, int rounding, int overflow, "
      "int gradient, float grad_scale) -> Tensor");
  // grad: like x; the gradients of x and of parameter.
  m.def(
      "fake_quant_learned_backward(Tensor grad, Tensor x, Tensor parameter, int axis, int bits, bool signed, "
      "int rounding, int overflow, int gradient, float grad_scale) -> (Tensor, Tensor)");
  m.def(
      "fake_quant_learned_backward.out(Tensor grad, Tensor x, Tensor parameter, int axis, int bits, bool signed, "
      "int rounding, int overflow, int gradient, float grad_scale, *, Tensor(a!) grad_x, Tensor(b!) grad_parameter) "
      "-> ()");

  // x: [N, C, H, W] uint8 or int8; weight: [K, C / groups, R, S] int8; bias, shift: [K] int32; requant: mul_pos,
  // mul_neg, shift_neg, code_lo, code_hi, code_bits, clamp_lo, clamp_hi, rounding, overflow; table: [2^code_bits] int8,
  // uint8 or int16, or [0]. Gives [N, K, Ho, Wo], channels last.
  m.def(
      "int_conv2d(Tensor x, Tensor weight, Tensor bias, Tensor shift, int[] stride, int[] padding, int[] dilation, "
      "int groups, int[] requant, Tensor table) -> Tensor");

  // x: [N, C, H, W] float32 or float64; values: [blocks, block_rows] like x; taps: [blocks] int16; starts: [chunks *
  // block rows of the weight + 1] int32 (sparse/conv.h); bias: [out_channels] like x; activation: enum of
  // sparse/conv.h; result: [N, out_channels, OH, OW].
  m.def(
      "sparse_conv2d(Tensor x, Tensor values, Tensor taps, Tensor starts, Tensor? bias, int out_channels, "
      "int[2] kernel_size, int chunk, int[2] stride, int[2] padding, int[2] dilation, int groups, int activation, "
      "float slope) -> Tensor");
}
