// SPDX-License-Identifier: Apache-2.0
// One block of kFoldLanes threads for every output channel of every layer: neighbouring threads take neighbouring
// weights, each is read once, and thread i keeps partial sum i of the gradient.
#include <algorithm>

#include "../fold_bn.h"
#include "../library.h"
#include "launch.cuh"
#include "reduce.cuh"

namespace yhw {
namespace {

// Layers of one launch; they travel as arguments of the kernel, of which there are at most 4 KiB.
constexpr int kTasksPerLaunch = 16;

template <typename Real>
struct FoldTasks {
  FoldTask<Real> tasks[kTasksPerLaunch];
  int64_t ends[kTasksPerLaunch];  // channels of this and all layers before
};
static_assert(sizeof(FoldTasks<double>) <= 3800, "the tasks of a launch must fit into the arguments of a kernel");

// Calls body(task, channel) with the channel of this block.
template <typename Real, typename Body>
__device__ __forceinline__ void with_channel(const FoldTasks<Real>& all, const Body& body) {
  const int64_t index = blockIdx.x;
  int i = 0;
  while (index >= all.ends[i]) {
    ++i;
  }
  body(all.tasks[i], index - (i == 0 ? 0 : all.ends[i - 1]));
}

// Calls body(offset) for the weights of a channel that are this thread's.
template <typename Body>
__device__ __forceinline__ void for_each_weight(const ChannelRuns& runs, const Body& body) {
  const int64_t first = threadIdx.x;
  if (runs.runs == 1) {
#pragma unroll 4
    for (int64_t i = first; i < runs.inner; i += kFoldLanes) {
      body(runs.begin + i);
    }
    return;
  }
  for (int64_t i = first; i < runs.runs * runs.inner; i += kFoldLanes) {
    body(runs.begin + i / runs.inner * runs.stride + i % runs.inner);
  }
}

template <typename Real, typename Policy>
struct Forward {
  static constexpr int kThreads = kFoldLanes;
  FoldTasks<Real> all;
  FoldFormat<Real> shared;

  __device__ void operator()() const {
    with_channel(all, [&](const FoldTask<Real>& task, int64_t channel) {
      const Real factor = channel_factor(task, channel);
      const FoldFormat<Real> format = channel_format(task, shared, channel);
      for_each_weight(channel_runs(task.layout, channel),
                      [&](int64_t at) { task.out_weight[at] = Policy::value(task.weight[at] * factor, format); });
      if (threadIdx.x == 0) {
        task.out_bias[channel] = channel_bias(task, channel, factor);
      }
    });
  }
};

template <typename Real, typename Policy>
struct Backward {
  static constexpr int kThreads = kFoldLanes;
  FoldTasks<Real> all;
  FoldFormat<Real> shared;

  __device__ void operator()() const {
    with_channel(all, [&](const FoldTask<Real>& task, int64_t channel) {
      const Real factor = channel_factor(task, channel);
      const FoldFormat<Real> format = channel_format(task, shared, channel);
      Real sum = 0;
      for_each_weight(channel_runs(task.layout, channel), [&](int64_t at) {
        const Real weight = task.weight[at];
        const Real passed = Policy::grad(task.grad_out_weight[at], weight * factor, format);
        task.grad_weight[at] = passed * factor;
        sum += passed * weight;
      });
      sum = sum_lanes<kFoldLanes>(sum);
      if (threadIdx.x == 0) {
        write_channel_grads(task, channel, sum);
      }
    });
  }
};

// Launches Kernel<Real, policy of the mode> over the channels of all tasks.
template <template <typename, typename> class Kernel, typename Real>
void launch_tasks(const Tensor& like, const std::vector<FoldTask<Real>>& tasks, const FoldMode& mode) {
  const FoldFormat<Real> shared = shared_format<Real>(mode);
  for (size_t first = 0; first < tasks.size(); first += kTasksPerLaunch) {
    FoldTasks<Real> some{};
    const size_t count = std::min(tasks.size() - first, static_cast<size_t>(kTasksPerLaunch));
    int64_t channels = 0;
    for (size_t i = 0; i < count; ++i) {
      some.tasks[i] = tasks[first + i];
      channels += some.tasks[i].layout.groups * some.tasks[i].layout.channels;
      some.ends[i] = channels;
    }
    if (channels > 0) {  // an empty grid is an invalid launch
      with_fold_policy(mode.quantise, mode.rounding, mode.overflow, [&](auto policy) {
        launch(like, dim3(blocks_for(channels, 1)), 0, Kernel<Real, decltype(policy)>{some, shared});
      });
    }
  }
}

struct Cuda {
  // The values stay on the device and are not checked: one outside of the limits gives 0, infinity or NaN.
  static void check_fracs(const char*, const Tensor&) {}

  template <typename Real>
  static void forward(const Tensor& like, const std::vector<FoldTask<Real>>& tasks, const FoldMode& mode) {
    launch_tasks<Forward>(like, tasks, mode);
  }

  template <typename Real>
  static void backward(const Tensor& like, const std::vector<FoldTask<Real>>& tasks, const FoldMode& mode) {
    launch_tasks<Backward>(like, tasks, mode);
  }
};

}  // namespace
}  // namespace yhw

YHW_LIBRARY_CUDA(m) {
  m.impl("fold_bn", TORCH_BOX(&yhw::fold_bn<yhw::Cuda>));
  m.impl("fold_bn_backward", TORCH_BOX(&yhw::fold_bn_backward<yhw::Cuda>));
  m.impl("fold_bn_fake_quant", TORCH_BOX(&yhw::fold_bn_fake_quant<yhw::Cuda>));
  m.impl("fold_bn_fake_quant_out", TORCH_BOX(&yhw::fold_bn_fake_quant_out<yhw::Cuda>));
  m.impl("fold_bn_fake_quant_backward", TORCH_BOX(&yhw::fold_bn_fake_quant_backward<yhw::Cuda>));
}
