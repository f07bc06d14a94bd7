// SPDX-License-Identifier: Apache-2.0
#include "../sparse_conv2d.h"

#include <torch/csrc/stable/library.h>

#include "../isa.h"
#include "path.h"

namespace yhw {
namespace {

static_assert(static_cast<int>(CpuPath::kBaseline) == static_cast<int>(sparse::Path::kScalar) &&
                  static_cast<int>(CpuPath::kAvx2) == static_cast<int>(sparse::Path::kAvx2) &&
                  static_cast<int>(CpuPath::kAvx512) == static_cast<int>(sparse::Path::kAvx512),
              "the paths have the same numbers");

// The path of the operators, and its VNNI instructions where the processor has them.
sparse::Path path_of_codes() {
  const CpuPath path = cpu_path();
  if (path == CpuPath::kAvx512 && cpu_has_avx512vnni()) {
    return sparse::Path::kAvx512Vnni;
  }
  return path != CpuPath::kBaseline && cpu_has_avxvnni() ? sparse::Path::kAvxVnni : static_cast<sparse::Path>(path);
}

struct Cpu {
  template <typename Element>
  static sparse::Weights<Element> weights_of(const SparseConvArgs& args, const PackedTensors& packed) {
    const auto* starts = static_cast<const int32_t*>(packed.starts.const_data_ptr());
    check_sparse_starts(starts, packed.cells, packed.values.size(0));
    return {static_cast<const Element*>(packed.values.const_data_ptr()),
            static_cast<const int16_t*>(packed.taps.const_data_ptr()), starts,
            static_cast<int32_t>(packed.values.size(1)), static_cast<int32_t>(args.chunk)};
  }

  static void parallel(int64_t tasks, const std::function<void(int64_t)>& body) {
    torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        body(task);
      }
    });
  }

  template <typename Element>
  static void run(const sparse::ConvShape& shape, const SparseConvArgs& args, double slope, const Tensor& x,
                  const PackedTensors& packed, const Element* bias,
                  // outputs
                  Element* y) {
    const auto activation = static_cast<sparse::Activation>(args.activation);
    const sparse::Problem<Element> problem{shape,      weights_of<Element>(args, packed),
                                           activation, static_cast<Element>(slope),
                                           Element{0}, static_cast<const Element*>(x.const_data_ptr()),
                                           bias,       y};
    sparse::convolve(problem, static_cast<sparse::Path>(cpu_path()), static_cast<int>(torch::stable::get_num_threads()),
                     parallel);
  }

  static void run_codes(const sparse::ConvShape& shape, const SparseConvArgs& args, const Tensor& x,
                        const PackedTensors& packed, const int32_t* bias,
                        // outputs
                        int32_t* y) {
    const sparse::CodeProblem problem{shape,
                                      weights_of<int32_t>(args, packed),
                                      static_cast<const uint8_t*>(x.const_data_ptr()),
                                      x.scalar_type() == ScalarType::Char,
                                      bias,
                                      y};
    sparse::convolve_codes(problem, path_of_codes(), static_cast<int>(torch::stable::get_num_threads()), parallel);
  }
};

}  // namespace
}  // namespace yhw

STABLE_TORCH_LIBRARY_IMPL(yolo_hw, CPU, m) { yhw::register_sparse_conv2d<yhw::Cpu>(m); }
