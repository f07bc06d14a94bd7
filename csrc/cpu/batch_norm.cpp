// SPDX-License-Identifier: Apache-2.0
#include "../batch_norm.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>

#include "../isa.h"
#include "batch_norm_rows.h"
#include "path.h"

namespace yhw {
namespace {

// Elements per task: large enough to be worth a thread.
constexpr int64_t kGrain = 1 << 15;
template <typename Real>
NormRows<Real> norm_rows(bool channels_last) {
#if defined(YHW_X86)
  return kernels_of_path(&norm_rows_baseline<Real>, &norm_rows_avx2<Real>, &norm_rows_avx512<Real>)(channels_last);
#else
  return norm_rows_baseline<Real>(channels_last);
#endif
}

// Sums of one channel: body(offset, rows, width, first, second) adds a part of it, `offset` elements into the tensor.
template <typename Body>
NormSums channel_sums(const NormLayout& layout, int64_t channel, const Body& body) {
  std::array<double, kNormLanes> first{}, second{};
  for (int64_t image = 0; image < layout.batch; ++image) {
    const int64_t begin = (image * layout.channels + channel) * layout.inner;
    const int64_t rows = layout.inner / kNormLanes, rest = layout.inner % kNormLanes;
    body(begin, rows, kNormLanes, first.data(), second.data());
    body(begin + rows * kNormLanes, int64_t{1}, rest, first.data(), second.data());
  }
  return {tree_sum<kNormLanes>(first.data()), tree_sum<kNormLanes>(second.data())};
}

// Sums of all channels of a channels-last tensor: body as above with width = channels.
template <typename Body>
std::vector<NormSums> all_channel_sums(const NormLayout& layout, const Body& body) {
  const int64_t width = layout.channels, chunks = (layout.values() + kNormChunkRows - 1) / kNormChunkRows;
  std::vector<double> partial(static_cast<size_t>(chunks * 2 * width));
  torch::stable::parallel_for(
      0, chunks, std::max<int64_t>(1, kGrain / (kNormChunkRows * width)), [&](int64_t begin, int64_t end) {
        for (int64_t chunk = begin; chunk < end; ++chunk) {
          const int64_t row = chunk * kNormChunkRows;
          double* first = partial.data() + chunk * 2 * width;
          body(row * width, std::min(kNormChunkRows, layout.values() - row), width, first, first + width);
        }
      });
  std::vector<NormSums> sums(static_cast<size_t>(width));
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const double* first = partial.data() + chunk * 2 * width;
    for (int64_t c = 0; c < width; ++c) {
      sums[static_cast<size_t>(c)].first += first[c];
      sums[static_cast<size_t>(c)].second += first[width + c];
    }
  }
  return sums;
}

// Calls body(channel) on all threads.
template <typename Body>
void for_each_channel(const NormLayout& layout, const Body& body) {
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, layout.values()));
  torch::stable::parallel_for(0, layout.channels, grain, [&](int64_t begin, int64_t end) {
    for (int64_t channel = begin; channel < end; ++channel) {
      body(channel);
    }
  });
}

// Calls body(offset, rows) for parts of a channels-last tensor on all threads.
template <typename Body>
void for_each_row_block(const NormLayout& layout, const Body& body) {
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, layout.channels));
  torch::stable::parallel_for(0, layout.values(), grain,
                              [&](int64_t begin, int64_t end) { body(begin * layout.channels, end - begin); });
}

// Calls body(offset) for every image of a channel.
template <typename Body>
void for_each_image(const NormLayout& layout, int64_t channel, const Body& body) {
  for (int64_t image = 0; image < layout.batch; ++image) {
    body((image * layout.channels + channel) * layout.inner);
  }
}

template <typename Real>
void forward_channels_last(const NormTask<Real>& task, const NormRows<Real>& rows) {
  const NormLayout& layout = task.layout;
  const std::vector<NormSums> sums =
      all_channel_sums(layout, [&](int64_t at, int64_t count, int64_t width, double* first, double* second) {
        rows.sums(task.x + at, count, width, task.x, first, second);  // the first row is the shift
      });
  const auto channels = static_cast<size_t>(layout.channels);
  std::vector<Real> mean(channels), scale(channels), offset(channels);
  for (size_t c = 0; c < channels; ++c) {
    const NormForward<Real> by = finish_forward(task, static_cast<int64_t>(c), sums[c]);
    mean[c] = by.mean, scale[c] = by.scale, offset[c] = by.offset;
  }
  const NormForwardRows<Real> by{mean.data(), scale.data(), offset.data()};
  for_each_row_block(layout, [&](int64_t at, int64_t count) {
    rows.normalise(task.x + at, count, layout.channels, by, task.result + at);
  });
}

template <typename Real>
void forward_channels(const NormTask<Real>& task, const NormRows<Real>& rows) {
  const NormLayout& layout = task.layout;
  for_each_channel(layout, [&](int64_t channel) {
    const Real* shift = task.x + channel * layout.inner;
    const NormSums sums =
        channel_sums(layout, channel, [&](int64_t at, int64_t count, int64_t width, double* first, double* second) {
          rows.sums(task.x + at, count, width, shift, first, second);
        });
    const NormForward<Real> by = finish_forward(task, channel, sums);
    for_each_image(layout, channel, [&](int64_t at) {
      rows.normalise(task.x + at, 1, layout.inner, {&by.mean, &by.scale, &by.offset}, task.result + at);
    });
  });
}

template <typename Real>
void backward_channels_last(const NormTask<Real>& task, const NormRows<Real>& rows) {
  const NormLayout& layout = task.layout;
  const std::vector<NormSums> sums =
      all_channel_sums(layout, [&](int64_t at, int64_t count, int64_t width, double* first, double* second) {
        rows.grad_sums(task.grad + at, task.x + at, count, width, task.mean, first, second);
      });
  const auto channels = static_cast<size_t>(layout.channels);
  std::vector<Real> scale(channels), slope(channels), offset(channels);
  for (size_t c = 0; c < channels; ++c) {
    const NormBackward<Real> by = finish_backward(task, static_cast<int64_t>(c), sums[c]);
    scale[c] = by.scale, slope[c] = by.slope, offset[c] = by.offset;
  }
  const NormBackwardRows<Real> by{task.mean, scale.data(), slope.data(), offset.data()};
  for_each_row_block(layout, [&](int64_t at, int64_t count) {
    rows.grad(task.grad + at, task.x + at, count, layout.channels, by, task.result + at);
  });
}

template <typename Real>
void backward_channels(const NormTask<Real>& task, const NormRows<Real>& rows) {
  const NormLayout& layout = task.layout;
  for_each_channel(layout, [&](int64_t channel) {
    const Real* mean = task.mean + channel;
    const NormSums sums =
        channel_sums(layout, channel, [&](int64_t at, int64_t count, int64_t width, double* first, double* second) {
          rows.grad_sums(task.grad + at, task.x + at, count, width, mean, first, second);
        });
    const NormBackward<Real> by = finish_backward(task, channel, sums);
    for_each_image(layout, channel, [&](int64_t at) {
      rows.grad(task.grad + at, task.x + at, 1, layout.inner, {&by.mean, &by.scale, &by.slope, &by.offset},
                task.result + at);
    });
  });
}

struct Cpu {
  template <typename Real>
  static void forward(const Tensor&, const NormTask<Real>& task) {
    const NormRows<Real> rows = norm_rows<Real>(task.layout.channels_last);
    task.layout.channels_last ? forward_channels_last(task, rows) : forward_channels(task, rows);
  }

  template <typename Real>
  static void backward(const Tensor&, const NormTask<Real>& task) {
    const NormRows<Real> rows = norm_rows<Real>(task.layout.channels_last);
    task.layout.channels_last ? backward_channels_last(task, rows) : backward_channels(task, rows);
  }
};

}  // namespace
}  // namespace yhw

STABLE_TORCH_LIBRARY_IMPL(yolo_hw, CPU, m) {
  m.impl("batch_norm", TORCH_BOX(&yhw::batch_norm<yhw::Cpu>));
  m.impl("batch_norm_backward", TORCH_BOX(&yhw::batch_norm_backward<yhw::Cpu>));
}
