// SPDX-License-Identifier: Apache-2.0
// A channel in runs is one block's: it sums and then normalises, so the second reading is from the caches.
// Channels-last takes three launches: sums of chunks of rows, sums of the chunks, normalisation. Sums are those of the
// CPU, in order.
#include "../batch_norm.h"
#include "../library.h"
#include "launch.cuh"
#include "reduce.cuh"

namespace yhw {
namespace {

// What the two directions add up and write for one value.
template <typename Real>
struct ForwardValue {
  using Apply = NormForward<Real>;

  __device__ static void add(const NormTask<Real>& task, int64_t at, double shift, NormSums& sums) {
    const double part = static_cast<double>(task.x[at]) - shift;
    sums.first += part;
    sums.second += part * part;
  }
  __device__ static double shift(const NormTask<Real>& task, int64_t channel) {
    const NormLayout& layout = task.layout;
    return static_cast<double>(task.x[layout.channels_last ? channel : channel * layout.inner]);
  }
  __device__ static Apply finish(const NormTask<Real>& task, int64_t channel, const NormSums& sums, bool write) {
    return finish_forward(task, channel, sums, write);
  }
  __device__ static void apply(const NormTask<Real>& task, int64_t at, const Apply& by) {
    task.result[at] = normalise(task.x[at], by.mean, by.scale, by.offset);
  }
};

template <typename Real>
struct BackwardValue {
  using Apply = NormBackward<Real>;

  __device__ static void add(const NormTask<Real>& task, int64_t at, double mean, NormSums& sums) {
    const double grad = static_cast<double>(task.grad[at]);
    sums.first += grad;
    sums.second += grad * (static_cast<double>(task.x[at]) - mean);
  }
  __device__ static double shift(const NormTask<Real>& task, int64_t channel) {
    return static_cast<double>(task.mean[channel]);
  }
  __device__ static Apply finish(const NormTask<Real>& task, int64_t channel, const NormSums& sums, bool write) {
    return finish_backward(task, channel, sums, write);
  }
  __device__ static void apply(const NormTask<Real>& task, int64_t at, const Apply& by) {
    task.result[at] = normalise_grad(task.grad[at], task.x[at], by.mean, by.scale, by.slope, by.offset);
  }
};

// Calls body(offset) for the values of this block's channel that are this thread's.
template <typename Body>
__device__ __forceinline__ void for_each_value(const NormLayout& layout, int64_t channel, const Body& body) {
  for (int64_t image = 0; image < layout.batch; ++image) {
    const int64_t begin = (image * layout.channels + channel) * layout.inner;
    for (int64_t i = threadIdx.x; i < layout.inner; i += kNormLanes) {
      body(begin + i);
    }
  }
}

template <typename Real, typename Value>
struct Channel {
  static constexpr int kThreads = kNormLanes;
  NormTask<Real> task;

  __device__ void operator()() const {
    const int64_t channel = blockIdx.x;
    const double shift = Value::shift(task, channel);
    NormSums sums{0, 0};
    for_each_value(task.layout, channel, [&](int64_t at) { Value::add(task, at, shift, sums); });
    sums.first = sum_lanes<kNormLanes>(sums.first);
    sums.second = sum_lanes<kNormLanes>(sums.second);
    const auto by = Value::finish(task, channel, sums, threadIdx.x == 0);
    for_each_value(task.layout, channel, [&](int64_t at) { Value::apply(task, at, by); });
  }
};

// Element i = chunk * channels + channel: the sums of a chunk of rows.
template <typename Real, typename Value>
struct ChunkSums {
  NormTask<Real> task;
  // outputs
  NormSums* partial;  // [chunks, C]

  __device__ void operator()(int64_t i) const {
    const int64_t channels = task.layout.channels, channel = i % channels, first = i / channels * kNormChunkRows;
    const int64_t rows = task.layout.batch * task.layout.inner;
    const int64_t stop = first + kNormChunkRows < rows ? first + kNormChunkRows : rows;
    const double shift = Value::shift(task, channel);
    NormSums sums{0, 0};
    for (int64_t row = first; row < stop; ++row) {
      Value::add(task, row * channels + channel, shift, sums);
    }
    partial[i] = sums;
  }
};

template <typename Real, typename Value>
struct Finish {
  NormTask<Real> task;
  const NormSums* partial;  // [chunks, C]
  int64_t chunks;
  // outputs
  typename Value::Apply* by;  // [C]

  __device__ void operator()(int64_t channel) const {
    NormSums sums{0, 0};
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const NormSums& part = partial[chunk * task.layout.channels + channel];
      sums.first += part.first;
      sums.second += part.second;
    }
    by[channel] = Value::finish(task, channel, sums, true);
  }
};

template <typename Real, typename Value>
struct Apply {
  NormTask<Real> task;
  const typename Value::Apply* by;  // [C]

  __device__ void operator()(int64_t i) const { Value::apply(task, i, by[i % task.layout.channels]); }
};

template <typename Real, typename Value>
void run(const Tensor& x, const NormTask<Real>& task) {
  const NormLayout& layout = task.layout;
  if (layout.channels == 0) {
    return;
  }
  if (!layout.channels_last) {
    launch(x, dim3(blocks_for(layout.channels, 1)), 0, Channel<Real, Value>{task});
    return;
  }
  const int64_t chunks = (layout.values() + kNormChunkRows - 1) / kNormChunkRows;
  Tensor partial = torch::stable::new_empty(x, {chunks, layout.channels, 2}, ScalarType::Double);
  Tensor coefficients = torch::stable::new_empty(x, {layout.channels, 4});
  static_assert(sizeof(NormSums) == 2 * sizeof(double), "a row of `partial` is one pair of sums");
  static_assert(sizeof(typename Value::Apply) <= 4 * sizeof(Real), "a row of `coefficients` holds those of a channel");
  auto* sums = static_cast<NormSums*>(partial.mutable_data_ptr());
  auto* by = static_cast<typename Value::Apply*>(coefficients.mutable_data_ptr());
  for_each(x, chunks * layout.channels, ChunkSums<Real, Value>{task, sums});
  for_each(x, layout.channels, Finish<Real, Value>{task, sums, chunks, by});
  for_each(x, x.numel(), Apply<Real, Value>{task, by});
}

struct Cuda {
  template <typename Real>
  static void forward(const Tensor& x, const NormTask<Real>& task) {
    run<Real, ForwardValue<Real>>(x, task);
  }

  template <typename Real>
  static void backward(const Tensor& x, const NormTask<Real>& task) {
    run<Real, BackwardValue<Real>>(x, task);
  }
};

}  // namespace
}  // namespace yhw

YHW_LIBRARY_CUDA(m) {
  m.impl("batch_norm", TORCH_BOX(&yhw::batch_norm<yhw::Cuda>));
  m.impl("batch_norm_backward", TORCH_BOX(&yhw::batch_norm_backward<yhw::Cuda>));
}
