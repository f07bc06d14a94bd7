// SPDX-License-Identifier: Apache-2.0
// The operators as torch sees them: every schema, no code. The kernels register themselves at the end of their files in
// cpu/ and cuda/; fake kernels and autograd are in yolo_hw/ops/.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(yolo_hw, m) {
  // The instruction set of the CPU kernels: "baseline", "avx2" or "avx512"; "best" chooses.
  m.def("cpu_path() -> str");
  m.def("set_cpu_path(str name) -> ()");

  // x: [...] float32 or float64; frac: [1] or [x.size(axis)] int32; rounding, overflow: enums of core/rounding.h.
  m.def(
      "fake_quant_pow2(Tensor x, Tensor frac, int axis, int bits, bool signed, int rounding, int overflow) -> Tensor");
  // grad: like x.
  m.def(
      "fake_quant_pow2_backward(Tensor grad, Tensor x, Tensor frac, int axis, int bits, bool signed, int rounding, "
      "int overflow) -> Tensor");

  // x: [N, C, H, W] float32 or float64; values: [blocks, block_rows] like x; taps: [blocks] int16; starts: [chunks *
  // block rows of the weight + 1] int32 (sparse/conv.h); bias: [out_channels] like x; activation: enum of
  // sparse/conv.h; result: [N, out_channels, OH, OW].
  m.def(
      "sparse_conv2d(Tensor x, Tensor values, Tensor taps, Tensor starts, Tensor? bias, int out_channels, "
      "int[2] kernel_size, int chunk, int[2] stride, int[2] padding, int[2] dilation, int groups, int activation, "
      "float slope) -> Tensor");
}
