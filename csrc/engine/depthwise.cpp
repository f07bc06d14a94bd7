// SPDX-License-Identifier: Apache-2.0
// Depthwise convolution: every channel on its own, kLanes at a time, one row of a slice of channels after the other.
#include <algorithm>

#include "arena.h"
#include "op.h"
#include "padded_rows.h"
#include "weight_step.h"

namespace yhw {
namespace {

// What a thread does in a microsecond, roughly.
constexpr double kMacsPerMicrosecond = 40e3;
// Pixels of a row whose accumulators are computed before they become codes.
constexpr int kRowPixels = 64;
// Rows of taps that stay in the first-level cache.
constexpr int64_t kRowsBytes = 24 << 10;

// How many neighbouring pixels share a vector, where all their channels do. A window that moves by one pixel then
// moves by so many.
int pixels_per_vector(const ConvParams& conv, const View& in, const View& out, const Kernels& kernels) {
  Window folded = conv.window;
  const int pixels = in.c < kLanes && kLanes % in.c == 0 ? kLanes / in.c : 1;
  folded.stride_x = pixels;
  const bool dense = out.stride == out.c && out.w % pixels == 0 && out.storage.bytes == 1;
  const bool bytes = kernels.interleaves && in.storage.bytes == 1 && conv.fits_bytes();
  return dense && bytes && conv.window.stride_x == 1 && takes_columns(folded) ? pixels : 1;
}

// The same for each of `count` pixels in a vector: channels repeat.
ConvParams fold(const ConvParams& conv, int count) {
  ConvParams folded = conv;
  folded.window.stride_x *= count;
  for (int i = 1; i < count; ++i) {
    folded.weight.insert(folded.weight.end(), conv.weight.begin(), conv.weight.end());
    folded.bias.insert(folded.bias.end(), conv.bias.begin(), conv.bias.end());
  }
  return folded;
}

Requantiser fold(const Requantiser& requant, int count) {
  Requantiser folded = requant;
  for (int i = 1; i < count; ++i) {
    folded.shift.insert(folded.shift.end(), requant.shift.begin(), requant.shift.end());
  }
  return folded;
}

Window unfold(Window window, int count) {
  window.stride_x /= count;
  return window;
}

// Seen as a map whose pixels are vectors of `count` pixels.
View fold(View view, int count) {
  view.c *= count;
  view.w /= count;
  view.stride *= count;
  return view;
}

class DepthwiseOp final : public Op {
 public:
  // `folded` pixels share a vector; conv, requant and out are folded so, `in` is not.
  DepthwiseOp(const ConvParams& conv, const Requantiser& requant, View in, View out, int folded, const Kernels& kernels)
      : in_(in),
        out_(out),
        blocks_((out.c + kLanes - 1) / kLanes),
        slice_(slice_of(conv, in, out)),
        rows_(unfold(conv.window, folded), in, out.w * folded, folded > 1 ? in.c : slice_ * kLanes * in.storage.bytes),
        epilogue_(make_epilogue(requant, 0, out.c, out.storage)) {
    const int lanes = blocks_ * kLanes, taps = conv.window.taps();
    bias_.resize(static_cast<size_t>(lanes));
    for (int c = 0; c < out.c; ++c) {
      bias_[static_cast<size_t>(c)] = stored_bias(conv, c, in.storage.zero);
    }
    if (kernels.interleaves && in.storage.bytes == 1 && conv.fits_bytes() && takes_columns(conv.window)) {
      pack_columns(conv, WeightStep(kernels.layout, 1));
    } else {
      weights_.resize(static_cast<size_t>(taps) * static_cast<size_t>(lanes));
      for (int i = 0; i < taps * out.c; ++i) {
        weights_[static_cast<size_t>(i % taps * lanes + i / taps)] = conv.weight[static_cast<size_t>(i)];
      }
    }
    packed_ = {conv.window, lanes, weights_.data(), columns_.empty() ? nullptr : columns_.data(), bias_.data()};
  }

  ScratchNeed scratch() const override { return {kAccBytes + rows_.scratch(), 0}; }
  size_t weight_bytes() const override {
    return weights_.size() * sizeof(int16_t) + columns_.size() + bias_.size() * sizeof(int32_t);
  }

  void run(const RunContext& context) const override {
    const int slices = (blocks_ + slice_ - 1) / slice_;
    const auto macs = static_cast<double>(out_.pixels() * out_.c * packed_.window.taps());
    const int wanted = jobs_of(context.pool, macs / kMacsPerMicrosecond);
    const int segments = std::min(out_.h, (wanted + slices - 1) / slices);
    context.pool.parallel_for(slices * segments, [&](int worker, int job) {
      const int segment = job % segments;
      run_slice(context.kernels, job / segments * slice_, out_.h * segment / segments,
                out_.h * (segment + 1) / segments, context.scratch_of(worker));
    });
  }

 private:
  static constexpr size_t kAccBytes = kRowPixels * kLanes * sizeof(int32_t);

  // Blocks of channels that are computed together.
  static int slice_of(const ConvParams& conv, const View& in, const View& out) {
    const int64_t column = int64_t{conv.window.span_y(1)} * conv.window.span_x(out.w) * kLanes * in.storage.bytes;
    const int blocks = (out.c + kLanes - 1) / kLanes;
    const int most = static_cast<int>(std::clamp<int64_t>(kRowsBytes / column, 1, blocks));
    const int slices = (blocks + most - 1) / most;
    return (blocks + slices - 1) / slices;
  }

  void pack_columns(const ConvParams& conv, const WeightStep& step) {
    const Window& w = conv.window;
    const int quads = (w.size_y + 3) / 4;
    columns_.resize(static_cast<size_t>(blocks_ * w.size_x * quads * step.bytes()));
    for (int c = 0; c < out_.c; ++c) {
      for (int t = 0; t < w.taps(); ++t) {
        const int r = t / w.size_x, s = t % w.size_x;
        uint8_t* to = columns_.data() + ((c / kLanes * w.size_x + s) * quads + r / 4) * step.bytes();
        step.set(to, c % kLanes, r % 4, conv.weight[static_cast<size_t>(c * w.taps() + t)]);
      }
    }
  }

  // Output rows [begin, end) of the blocks from `first` on.
  void run_slice(const Kernels& kernels, int first, int begin, int end, uint8_t* scratch) const {
    auto* acc = reinterpret_cast<int32_t*>(scratch);
    scratch += kAccBytes;
    const int last = std::min(first + slice_, blocks_), bytes = in_.storage.bytes;
    rows_.begin(first * kLanes * bytes, (std::min(last * kLanes, in_.c) - first * kLanes) * bytes, scratch);
    DepthwiseRow row{nullptr, 0, rows_.pixel_bytes(), in_.storage};
    for (int y = begin; y < end; ++y) {
      row.rows = rows_.rows_of(y, scratch);
      for (int block = first; block < last; ++block) {
        for (int x = 0; x < out_.w; x += kRowPixels) {
          const int pixels = std::min(kRowPixels, out_.w - x), channel = block * kLanes;
          row.offset = (block - first) * kLanes * bytes + x * packed_.window.stride_x * row.pitch;
          kernels.depthwise_row(packed_, row, block, pixels, acc);
          kernels.finish(epilogue_, acc, channel, 1, pixels, out_.at(y, x) + channel * out_.storage.bytes,
                         out_.pixel_bytes());
        }
      }
    }
  }

  View in_, out_;
  int blocks_, slice_;
  PaddedRows rows_;
  Epilogue epilogue_;
  std::vector<int16_t> weights_;
  std::vector<uint8_t> columns_;
  std::vector<int32_t> bias_;
  PackedDepthwise packed_;
};

}  // namespace

std::unique_ptr<Op> make_depthwise(const ConvParams& conv, const Requantiser& requant, View in, View out,
                                   const Kernels& kernels) {
  const int folded = pixels_per_vector(conv, in, out, kernels);
  return std::make_unique<DepthwiseOp>(fold(conv, folded), fold(requant, folded), in, fold(out, folded), folded,
                                       kernels);
}

}  // namespace yhw
