// SPDX-License-Identifier: Apache-2.0
// The operators as torch sees them: every schema, no code. The kernels register themselves at the end of their files in
// cpu/ and cuda/; fake kernels and autograd are in yolo_hw/ops/.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(yolo_hw, m) {
  // x: [...] float32 or float64; frac: [1] or [x.size(axis)] int32; rounding, overflow: enums of core/rounding.h.
  m.def(
      "fake_quant_pow2(Tensor x, Tensor frac, int axis, int bits, bool signed, int rounding, int overflow) -> Tensor");
  // grad: like x.
  m.def(
      "fake_quant_pow2_backward(Tensor grad, Tensor x, Tensor frac, int axis, int bits, bool signed, int rounding, "
      "int overflow) -> Tensor");
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
  // The instruction set of the CPU kernels: baseline, avx2 or avx512; "best" chooses it again.
  m.def("cpu_path() -> str");
  m.def("set_cpu_path(str name) -> ()");
}
