// SPDX-License-Identifier: Apache-2.0
// Which instruction set the CPU kernels of the torch operators use: the best of this processor, or the one that
// torch.ops.yolo_hw.set_cpu_path names. Every path gives the same bits.
#ifndef YHW_CPU_PATH_H_
#define YHW_CPU_PATH_H_

namespace yhw {

enum class CpuPath { kBaseline, kAvx2, kAvx512 };

// The path in use.
CpuPath cpu_path();

// The table of kernels of the path in use.
template <typename Kernels>
const Kernels& kernels_of_path(const Kernels& baseline, const Kernels& avx2, const Kernels& avx512) {
  switch (cpu_path()) {
    case CpuPath::kAvx512:
      return avx512;
    case CpuPath::kAvx2:
      return avx2;
    default:
      return baseline;
  }
}

}  // namespace yhw

#endif  // YHW_CPU_PATH_H_
