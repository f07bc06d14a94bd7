// SPDX-License-Identifier: Apache-2.0
// The names that the operators are registered under. The CUDA kernels are also built for the CPU, for tests
// (cuda/emulation/): as operators of a library of their own, for tensors of the CPU.
#ifndef YHW_LIBRARY_H_
#define YHW_LIBRARY_H_

#include <torch/csrc/stable/library.h>

#ifdef YHW_EMULATE_CUDA
#define YHW_LIBRARY(m) STABLE_TORCH_LIBRARY(yolo_hw_emulated, m)
#define YHW_LIBRARY_CUDA(m) STABLE_TORCH_LIBRARY_IMPL(yolo_hw_emulated, CPU, m)
#else
#define YHW_LIBRARY(m) STABLE_TORCH_LIBRARY(yolo_hw, m)
#define YHW_LIBRARY_CUDA(m) STABLE_TORCH_LIBRARY_IMPL(yolo_hw, CUDA, m)
#endif

#endif  // YHW_LIBRARY_H_
