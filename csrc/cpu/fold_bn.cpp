// SPDX-License-Identifier: Apache-2.0
#include "../fold_bn.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "../isa.h"
#include "fold_bn_rows.h"
#include "path.h"

namespace yhw {
namespace {

// Elements per task: large enough to be worth a thread.
constexpr int64_t kGrain = 1 << 15;

template <typename Real>
FoldRows<Real> fold_rows(const FoldMode& mode) {
#if defined(YHW_X86)
  return kernels_of_path(&fold_rows_baseline<Real>, &fold_rows_avx2<Real>, &fold_rows_avx512<Real>)(
      mode.quantise, mode.rounding, mode.overflow);
#else
  return fold_rows_baseline<Real>(mode.quantise, mode.rounding, mode.overflow);
#endif
}

// Copies the weights of a channel at `from` into `scratch`.
template <typename Real>
void gather(const ChannelRuns& channel, const Real* from, std::vector<Real>& scratch) {
  scratch.resize(static_cast<size_t>(channel.runs * channel.inner));
  for (int64_t r = 0; r < channel.runs; ++r) {
    std::copy_n(from + channel.begin + r * channel.stride, channel.inner, scratch.data() + r * channel.inner);
  }
}

template <typename Real>
void scatter(const ChannelRuns& channel, const std::vector<Real>& scratch, Real* to) {
  for (int64_t r = 0; r < channel.runs; ++r) {
    std::copy_n(scratch.data() + r * channel.inner, channel.inner, to + channel.begin + r * channel.stride);
  }
}

// Calls body(task, channel) for every channel of every layer, on all threads. A channel belongs to the thread whose
// share of all weights its first one lies in, so layers of any size are shared evenly.
template <typename Real, typename Body>
void for_each_channel(const std::vector<FoldTask<Real>>& tasks, const Body& body) {
  std::vector<int64_t> begins{0};
  for (const FoldTask<Real>& task : tasks) {
    const FoldLayout& layout = task.layout;
    // One more than its weights, for its bias and for channels without weights.
    begins.push_back(begins.back() + layout.groups * layout.channels * (layout.rows * layout.inner + 1));
  }
  torch::stable::parallel_for(0, begins.back(), kGrain, [&](int64_t begin, int64_t end) {
    auto above = std::upper_bound(begins.begin(), begins.end(), begin);
    for (size_t i = static_cast<size_t>(above - begins.begin()) - 1; i < tasks.size() && begins[i] < end; ++i) {
      const int64_t cost = tasks[i].layout.rows * tasks[i].layout.inner + 1;
      const auto first_from = [&](int64_t position) {
        return (std::clamp(position, begins[i], begins[i + 1]) - begins[i] + cost - 1) / cost;
      };
      for (int64_t channel = first_from(begin); channel < first_from(end); ++channel) {
        body(tasks[i], channel);
      }
    }
  });
}

struct Cpu {
  static void check_fracs(const char* op, const Tensor& frac) {
    const auto* values = static_cast<const int32_t*>(frac.const_data_ptr());
    for (int64_t i = 0; i < frac.numel(); ++i) {
      STD_TORCH_CHECK(values[i] >= -kMaxAbsFrac && values[i] <= kMaxAbsFrac, op, ": frac must be in [", -kMaxAbsFrac,
                      ", ", kMaxAbsFrac, "], got ", values[i]);
    }
  }

  template <typename Real>
  static void forward(const Tensor&, const std::vector<FoldTask<Real>>& tasks, const FoldMode& mode) {
    const FoldRows<Real> rows = fold_rows<Real>(mode);
    const FoldFormat<Real> shared = shared_format<Real>(mode);
    for_each_channel(tasks, [&](const FoldTask<Real>& task, int64_t channel) {
      const ChannelRuns runs = channel_runs(task.layout, channel);
      const FoldFormat<Real> format = channel_format(task, shared, channel);
      const Real factor = channel_factor(task, channel);
      task.out_bias[channel] = channel_bias(task, channel, factor);
      for (int64_t r = 0; r < runs.runs; ++r) {
        const int64_t at = runs.begin + r * runs.stride;
        rows.forward(task.weight + at, runs.inner, factor, format, task.out_weight + at);
      }
    });
  }

  template <typename Real>
  static void backward(const Tensor&, const std::vector<FoldTask<Real>>& tasks, const FoldMode& mode) {
    const FoldRows<Real> rows = fold_rows<Real>(mode);
    const FoldFormat<Real> shared = shared_format<Real>(mode);
    for_each_channel(tasks, [&](const FoldTask<Real>& task, int64_t channel) {
      const ChannelRuns runs = channel_runs(task.layout, channel);
      const FoldFormat<Real> format = channel_format(task, shared, channel);
      const Real factor = channel_factor(task, channel);
      Real sum = 0;
      if (runs.runs == 1) {
        sum = rows.backward(task.grad_out_weight + runs.begin, task.weight + runs.begin, runs.inner, factor, format,
                            task.grad_weight + runs.begin);
      } else {  // the lanes count through all runs
        thread_local std::vector<Real> grad, weight, result;
        gather(runs, task.grad_out_weight, grad);
        gather(runs, task.weight, weight);
        result.resize(grad.size());
        sum = rows.backward(grad.data(), weight.data(), runs.runs * runs.inner, factor, format, result.data());
        scatter(runs, result, task.grad_weight);
      }
      write_channel_grads(task, channel, sum);
    });
  }
};

}  // namespace
}  // namespace yhw

STABLE_TORCH_LIBRARY_IMPL(yolo_hw, CPU, m) {
  m.impl("fold_bn", TORCH_BOX(&yhw::fold_bn<yhw::Cpu>));
  m.impl("fold_bn_backward", TORCH_BOX(&yhw::fold_bn_backward<yhw::Cpu>));
  m.impl("fold_bn_fake_quant", TORCH_BOX(&yhw::fold_bn_fake_quant<yhw::Cpu>));
  m.impl("fold_bn_fake_quant_out", TORCH_BOX(&yhw::fold_bn_fake_quant_out<yhw::Cpu>));
  m.impl("fold_bn_fake_quant_backward", TORCH_BOX(&yhw::fold_bn_fake_quant_backward<yhw::Cpu>));
}
