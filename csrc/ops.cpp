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
  // The same kernels without a gradient formula; format: a PackedFormat (fake_quant_pow2.h).
  m.def("_fake_quant_pow2(Tensor x, Tensor? fracs, int format) -> Tensor");
  m.def("_fake_quant_pow2_backward(Tensor grad, Tensor x, Tensor? fracs, int format) -> Tensor");
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
  m.def("_fake_quant_learned(Tensor x, Tensor parameter, int format) -> Tensor");
  m.def(
      "_fake_quant_learned_backward(Tensor grad, Tensor x, Tensor parameter, int format, float grad_scale) "
      "-> (Tensor, Tensor)");
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
  // sparse/conv.h; result: [N, out_channels, OH, OW] like x. For x of int8 or uint8: values: [blocks, block_rows, 4]
  // int8, bias and result int32, channels of taps and chunk in quads (sparse/quads.h), no activation.
  m.def(
      "sparse_conv2d(Tensor x, Tensor values, Tensor taps, Tensor starts, Tensor? bias, int out_channels, "
      "int[2] kernel_size, int chunk, int[2] stride, int[2] padding, int[2] dilation, int groups, int activation, "
      "float slope) -> Tensor");
  m.def(
      "sparse_conv2d.out(Tensor x, Tensor values, Tensor taps, Tensor starts, Tensor? bias, int out_channels, "
      "int[2] kernel_size, int chunk, int[2] stride, int[2] padding, int[2] dilation, int groups, int activation, "
      "float slope, *, Tensor(a!) out) -> ()");

  // weight: [K, ...], or [C, K / transposed_groups, ...] of a transposed convolution with transposed_groups > 0; bias:
  // [K], or [0] for none; gamma, beta, mean, var: [K], or all [0] for a layer without batch norm. Returns weight, bias
  // [K].
  m.def(
      "fold_bn(Tensor weight, Tensor bias, Tensor gamma, Tensor beta, Tensor mean, Tensor var, float eps, "
      "int transposed_groups) -> (Tensor, Tensor)");
  // grad_weight: like weight; grad_bias: [K]. Returns the gradients to weight, bias, gamma, beta, mean, var.
  m.def(
      "fold_bn_backward(Tensor grad_weight, Tensor grad_bias, Tensor weight, Tensor bias, Tensor gamma, Tensor beta, "
      "Tensor mean, Tensor var, float eps, int transposed_groups) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  // Each list has one entry per layer, as in fold_bn; fracs: [1] or [K], int32.
  m.def(
      "fold_bn_fake_quant(Tensor[] weights, Tensor[] biases, Tensor[] gammas, Tensor[] betas, Tensor[] means, "
      "Tensor[] vars, Tensor[] fracs, float eps, int[] transposed_groups, int bits, bool signed, int rounding, "
      "int overflow) -> (Tensor[], Tensor[])");
  m.def(
      "fold_bn_fake_quant_out(Tensor[] weights, Tensor[] biases, Tensor[] gammas, Tensor[] betas, Tensor[] means, "
      "Tensor[] vars, Tensor[] fracs, float eps, int[] transposed_groups, int bits, bool signed, int rounding, "
      "int overflow, Tensor(a!)[] out_weights, Tensor(b!)[] out_biases) -> ()");
  // grad_weights, grad_biases: like the results. Returns the gradients to the first six lists of the forward.
  m.def(
      "fold_bn_fake_quant_backward(Tensor[] grad_weights, Tensor[] grad_biases, Tensor[] weights, Tensor[] biases, "
      "Tensor[] gammas, Tensor[] betas, Tensor[] means, Tensor[] vars, Tensor[] fracs, float eps, "
      "int[] transposed_groups, int bits, bool signed, int rounding, int overflow) -> "
      "(Tensor[], Tensor[], Tensor[], Tensor[], Tensor[], Tensor[])");
  // x: [N, C, ...]; weight, bias: [C]; eps: [1] or [C]. Returns y like x, mean and biased variance [C].
  m.def("batch_norm(Tensor x, Tensor weight, Tensor bias, Tensor eps) -> (Tensor, Tensor, Tensor)");
  // grad: like x; mean, var: of the forward. Returns the gradients to x, weight and bias.
  m.def(
      "batch_norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor mean, Tensor var, Tensor eps) -> "
      "(Tensor, Tensor, Tensor)");
}
