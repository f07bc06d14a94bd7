// SPDX-License-Identifier: Apache-2.0
#include "../sparse_conv2d.h"

#include <torch/csrc/stable/library.h>

#include "path.h"

namespace yhw {
namespace {

static_assert(static_cast<int>(CpuPath::kBaseline) == static_cast<int>(sparse::Path::kScalar) &&
                  static_cast<int>(CpuPath::kAvx2) == static_cast<int>(sparse::Path::kAvx2) &&
                  static_cast<int>(CpuPath::kAvx512) == static_cast<int>(sparse::Path::kAvx512),
              "the paths have the same numbers");

struct Cpu {
  template <typename Real>
  static void run(const sparse::ConvShape& shape, const SparseConvArgs& args, double slope, const Tensor& x,
                  const PackedTensors& packed, const std::optional<Tensor>& bias,
                  // outputs
                  Tensor& y) {
    const auto* starts = static_cast<const int32_t*>(packed.starts.const_data_ptr());
    const auto* taps = static_cast<const int16_t*>(packed.taps.const_data_ptr());
    check_sparse_starts(starts, packed.cells, packed.values.size(0));
    const sparse::Problem<Real> problem{shape,
                                        {static_cast<const Real*>(packed.values.const_data_ptr()), taps, starts,
                                         static_cast<int32_t>(packed.values.size(1)), static_cast<int32_t>(args.chunk)},
                                        static_cast<sparse::Activation>(args.activation),
                                        static_cast<Real>(slope),
                                        static_cast<const Real*>(x.const_data_ptr()),
                                        bias.has_value() ? static_cast<const Real*>(bias->const_data_ptr()) : nullptr,
                                        static_cast<Real*>(y.mutable_data_ptr())};
    const auto parallel = [](int64_t tasks, const std::function<void(int64_t)>& body) {
      torch::stable::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) {
          body(task);
        }
      });
    };
    sparse::convolve(problem, static_cast<sparse::Path>(cpu_path()), static_cast<int>(torch::stable::get_num_threads()),
                     parallel);
  }
};

}  // namespace
}  // namespace yhw

STABLE_TORCH_LIBRARY_IMPL(yolo_hw, CPU, m) { m.impl("sparse_conv2d", TORCH_BOX(&yhw::sparse_conv2d<yhw::Cpu>)); }
