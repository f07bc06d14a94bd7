// SPDX-License-Identifier: Apache-2.0
// The CPU kernels of fake_quant_pow2, compiled once per instruction set: plain loops over core/fake_quant.h that the
// compiler turns into vector code. No fused multiply-adds and a fixed order of sums: every path gives the same bits.
#ifndef YHW_CPU_FAKE_QUANT_POW2_KERNEL_H_
#define YHW_CPU_FAKE_QUANT_POW2_KERNEL_H_

#include "fake_quant_pow2_tiles.h"

namespace yhw {
namespace {

// Calls element(i) for i in [0, count) and asks for what follows of `inputs` in time. `ivdep`: the output may be an
// input itself, never an overlapping part of it.
template <typename Element, typename... Real>
YHW_HD void for_each_element(int64_t count, const Element& element, const Real*... inputs) {
  constexpr int64_t kBlock = 64;
  int64_t i = 0;
  for (; i + kBlock <= count; i += kBlock) {
    (prefetch_ahead(inputs + i, kBlock * sizeof(Real)), ...);
#pragma GCC ivdep
    for (int64_t k = i; k < i + kBlock; ++k) {
      element(k);
    }
  }
#pragma GCC ivdep
  for (; i < count; ++i) {
    element(i);
  }
}

template <typename Real>
struct Quantise {
  CodeRange range;
  // y = fake_quant(x), one format for all, or one per element.
  void (*run)(const Real* x, int64_t count, Real scale, Real step, const CodeRange& range, Real* y);
  void (*row)(const Real* x, int64_t count, const Real* scale, const Real* step, const CodeRange& range, Real* y);
};

template <Rounding kRounding, Overflow kOverflow, typename Real>
void quantise_run(const Real* x, int64_t count, Real scale, Real step, const CodeRange& range, Real* y) {
  const CodeRange codes = range;
  for_each_element(count, [=](int64_t i) { y[i] = fake_quant<kRounding, kOverflow>(x[i], scale, step, codes); }, x);
}

template <Rounding kRounding, Overflow kOverflow, typename Real>
void quantise_row(const Real* x, int64_t count, const Real* scale, const Real* step, const CodeRange& range, Real* y) {
  const CodeRange codes = range;
  for_each_element(
      count, [=](int64_t i) { y[i] = fake_quant<kRounding, kOverflow>(x[i], scale[i], step[i], codes); }, x);
}

template <typename Real>
Quantise<Real> quantise_loops(const FakeQuantTask& task) {
  Quantise<Real> loops{task.range, nullptr, nullptr};
  with_modes(task.rounding, task.overflow, [&](auto rounding, auto overflow) {
    loops.run = quantise_run<rounding(), overflow(), Real>;
    loops.row = quantise_row<rounding(), overflow(), Real>;
  });
  return loops;
}

template <typename Real>
void pass_run(const Real* grad, const Real* x, int64_t count, Real scale, const PassRange<Real>& range, Real* grad_x) {
  const PassRange<Real> pass = range;
  for_each_element(
      count, [=](int64_t i) { grad_x[i] = fake_quant_grad<Overflow::kSaturate>(grad[i], x[i], scale, pass); }, grad, x);
}

template <typename Real>
void pass_row(const Real* grad, const Real* x, int64_t count, const Real* scale, const PassRange<Real>& range,
              Real* grad_x) {
  const PassRange<Real> pass = range;
  for_each_element(
      count, [=](int64_t i) { grad_x[i] = fake_quant_grad<Overflow::kSaturate>(grad[i], x[i], scale[i], pass); }, grad,
      x);
}

// Calls run(first element, count, channel) for elements [begin, end) that share a channel, or row(first, count, first
// of the row of formats) where runs are short.
template <typename Run, typename Row>
void for_each_format(const FakeQuantTask& task, int64_t begin, int64_t end, const Run& run, const Row& row) {
  const int64_t inner = task.layout.inner, channels = task.layout.channels;
  if (channels == 1) {
    return run(begin, end - begin, 0);
  }
  const bool rows = task.scales != nullptr;
  const int64_t length = rows ? inner * channels : inner;
  while (begin < end) {
    const int64_t index = begin / length, count = smaller(end, (index + 1) * length) - begin;
    if (rows) {
      row(begin, count, begin - index * length);
    } else {
      run(begin, count, index % channels);
    }
    begin += count;
  }
}

template <typename Element>
void forward(const FakeQuantTask& task, int64_t begin, int64_t end) {
  using Real = typename Element::Real;
  const Quantise<Real> loops = quantise_loops<Real>(task);
  const auto *scales = static_cast<const Real*>(task.scales), *steps = static_cast<const Real*>(task.steps);
  OutputTile<Element> output(task);
  alignas(kCacheLine) Real x_buffer[kFakeQuantTile];
  for (int64_t tile = begin; tile < end; tile += kFakeQuantTile) {
    const int64_t size = smaller(kFakeQuantTile, end - tile);
    const Real* x = load_tile<Element>(task.x, tile, size, x_buffer);
    Real* y = output.at(tile);
    const auto run = [&](int64_t first, int64_t count, int64_t channel) {
      const int frac = task.fracs[channel];
      const int64_t i = first - tile;
      loops.run(x + i, count, power_of_two<Real>(frac), power_of_two<Real>(-frac), loops.range, y + i);
    };
    const auto row = [&](int64_t first, int64_t count, int64_t at) {
      const int64_t i = first - tile;
      loops.row(x + i, count, scales + at, steps + at, loops.range, y + i);
    };
    for_each_format(task, tile, tile + size, run, row);
    output.store(tile, size);
  }
}

// The straight-through gradient with clipping; under kWrap the caller copies.
template <typename Element>
void backward(const FakeQuantTask& task, int64_t begin, int64_t end) {
  using Real = typename Element::Real;
  PassRange<Real> pass{};
  with_modes(task.rounding, task.overflow,
             [&](auto rounding, auto overflow) { pass = pass_range<rounding(), overflow(), Real>(task.range); });
  const auto* scales = static_cast<const Real*>(task.scales);
  OutputTile<Element> output(task);
  alignas(kCacheLine) Real x_buffer[kFakeQuantTile], grad_buffer[kFakeQuantTile];
  for (int64_t tile = begin; tile < end; tile += kFakeQuantTile) {
    const int64_t size = smaller(kFakeQuantTile, end - tile);
    const Real* x = load_tile<Element>(task.x, tile, size, x_buffer);
    const Real* grad = load_tile<Element>(task.grad, tile, size, grad_buffer);
    Real* grad_x = output.at(tile);
    const auto run = [&](int64_t first, int64_t count, int64_t channel) {
      const int64_t i = first - tile;
      pass_run(grad + i, x + i, count, power_of_two<Real>(task.fracs[channel]), pass, grad_x + i);
    };
    const auto row = [&](int64_t first, int64_t count, int64_t at) {
      const int64_t i = first - tile;
      pass_row(grad + i, x + i, count, scales + at, pass, grad_x + i);
    };
    for_each_format(task, tile, tile + size, run, row);
    output.store(tile, size);
  }
}

// Where the sum over a chunk stands.
template <typename Real>
struct LaneSums {
  alignas(kCacheLine) Real lanes[kSumLanes];
  int64_t next;  // lane of the next element
};

// grad_x of whole rows of lanes; adds their step gradients to the lanes' sums.
template <Rounding kRounding, typename Real>
void learned_rows(const Real* grad, const Real* x, int64_t rows, const LearnedFormat<Real>& format, Real* grad_x,
                  Real* lanes) {
  const LearnedFormat<Real> f = format;
  Real sums[kSumLanes];
  __builtin_memcpy(sums, lanes, sizeof(sums));
  for (int64_t i = 0; i < rows * kSumLanes; i += kSumLanes) {
    prefetch_ahead(grad + i, sizeof(sums));
    prefetch_ahead(x + i, sizeof(sums));
#pragma GCC ivdep
    for (int lane = 0; lane < kSumLanes; ++lane) {
      const auto gradient = learned_gradient<kRounding>(grad[i + lane], x[i + lane], f);
      sums[lane] += gradient.step;
      grad_x[i + lane] = gradient.x;
    }
  }
  __builtin_memcpy(lanes, sums, sizeof(sums));
}

// One element of each of some channels: grad_x, and the step gradients added to the channels' sums.
template <Rounding kRounding, typename Real>
void learned_across(const Real* grad, const Real* x, int64_t channels, const Real* scales,
                    const LearnedFormat<Real>& format, Real* grad_x, Real* sums) {
  const LearnedFormat<Real> f = format;
  const auto element = [=](int64_t c) {
    const auto gradient = learned_gradient<kRounding>(grad[c], x[c], {scales[c], f.pass, f.low, f.high});
    sums[c] += gradient.step;
    grad_x[c] = gradient.x;
  };
  for_each_element(channels, element, grad, x);
}

// The learned backward of runs of elements.
template <typename Real>
struct LearnedLoop {
  LearnedFormat<Real> format;  // of the channel
  void (*rows)(const Real*, const Real*, int64_t, const LearnedFormat<Real>&, Real*, Real*);
  void (*across)(const Real*, const Real*, int64_t, const Real*, const LearnedFormat<Real>&, Real*, Real*);

  explicit LearnedLoop(const FakeQuantTask& task) {
    with_modes(task.rounding, task.overflow, [&](auto rounding, auto overflow) {
      format = learned_format<rounding(), overflow(), Real>(task.gradient, task.range);
      rows = learned_rows<rounding(), Real>;
      across = learned_across<rounding(), Real>;
    });
  }

  // The next `count` elements of a chunk.
  void run(const Real* grad, const Real* x, int64_t count, Real* grad_x, LaneSums<Real>& sums) const {
    int64_t done = 0;
    if (sums.next != 0) {
      done = smaller(count, kSumLanes - sums.next);
      part(grad, x, done, grad_x, sums);
    }
    const int64_t whole = (count - done) / kSumLanes;
    rows(grad + done, x + done, whole, format, grad_x + done, sums.lanes);
    done += whole * kSumLanes;
    if (done < count) {
      part(grad + done, x + done, count - done, grad_x + done, sums);
    }
  }

 private:
  // Some lanes of a row. A gradient of zero leaves the sums of the others as they are: none is ever -0.
  void part(const Real* grad, const Real* x, int64_t count, Real* grad_x, LaneSums<Real>& sums) const {
    Real row_grad[kSumLanes] = {}, row_x[kSumLanes] = {}, row_out[kSumLanes];
    const size_t bytes = static_cast<size_t>(count) * sizeof(Real);
    __builtin_memcpy(row_grad + sums.next, grad, bytes);
    __builtin_memcpy(row_x + sums.next, x, bytes);
    rows(row_grad, row_x, 1, format, row_out, sums.lanes);
    __builtin_memcpy(grad_x, row_out + sums.next, bytes);
    sums.next = (sums.next + count) % kSumLanes;
  }
};

// Some channels, and of each the elements [first, last) counted in memory order; first is the begin of a chunk.
struct ChannelElements {
  int64_t first_channel;
  int64_t last_channel;
  int64_t first;
  int64_t last;
};

// Where runs are short: chunk after chunk, each brought together in a buffer.
template <typename Element>
void learned_short_runs(const FakeQuantTask& task, const ChannelElements& part,
                        LearnedLoop<typename Element::Real>& loop) {
  using Real = typename Element::Real;
  alignas(kCacheLine) Real x_buffer[kSumChunk], grad_buffer[kSumChunk], out_buffer[kSumChunk];
  for (int64_t first = part.first; first < part.last; first += kSumChunk) {
    const int64_t count = smaller(kSumChunk, part.last - first);
    for (int64_t channel = part.first_channel; channel < part.last_channel; ++channel) {
      const ChannelPieces pieces{task.layout.inner, task.layout.channels, channel, first, count};
      pieces.load<Element>(task.x, x_buffer);
      pieces.load<Element>(task.grad, grad_buffer);
      LaneSums<Real> sums{};
      loop.format.scale = power_of_two<Real>(task.fracs[channel]);
      loop.run(grad_buffer, x_buffer, count, out_buffer, sums);
      pieces.store<Element>(out_buffer, task.out);
      task.partials[channel * task.chunks + first / kSumChunk] = add_lanes(sums.lanes);
    }
  }
}

// Where runs are long: through memory in its order, with the sums of some channels under way. Runs may end inside a
// chunk and chunks inside a run.
template <typename Element>
void learned_long_runs(const FakeQuantTask& task, const ChannelElements& part,
                       LearnedLoop<typename Element::Real>& loop) {
  using Real = typename Element::Real;
  const int64_t inner = task.layout.inner;
  constexpr int64_t kChannels = 64;
  LaneSums<Real> sums[kChannels];
  OutputTile<Element> output(task);
  alignas(kCacheLine) Real x_buffer[kSumChunk], grad_buffer[kSumChunk];
  const auto run = [&](int64_t channel, int64_t from, int64_t to, LaneSums<Real>& sum) {
    loop.format.scale = power_of_two<Real>(task.fracs[channel]);
    const int64_t start = (from / inner * task.layout.channels + channel) * inner + from % inner - from;
    while (from < to) {
      const int64_t chunk = from / kSumChunk, end = smaller(to, (chunk + 1) * kSumChunk), count = end - from;
      if (from % kSumChunk == 0) {
        sum = {};
      }
      const Real* x = load_tile<Element>(task.x, start + from, count, x_buffer);
      const Real* grad = load_tile<Element>(task.grad, start + from, count, grad_buffer);
      loop.run(grad, x, count, output.at(start + from), sum);
      output.store(start + from, count);
      task.partials[channel * task.chunks + chunk] = add_lanes(sum.lanes);  // until the chunk ends, one to overwrite
      from = end;
    }
  };
  for (int64_t first = part.first_channel; first < part.last_channel; first += kChannels) {
    const int64_t last = smaller(first + kChannels, part.last_channel);
    for (int64_t from = part.first; from < part.last;) {
      const int64_t to = smaller(part.last, (from / inner + 1) * inner);
      for (int64_t channel = first; channel < last; ++channel) {
        run(channel, from, to, sums[channel - first]);
      }
      from = to;
    }
  }
}

// Where the channels of an element are neighbours, as in channels-last: across the channels, every lane a row of sums.
template <typename Element>
void learned_neighbours(const FakeQuantTask& task, const ChannelElements& part,
                        LearnedLoop<typename Element::Real>& loop) {
  using Real = typename Element::Real;
  constexpr int64_t kChannels = 128;
  alignas(kCacheLine) Real sums[kSumLanes][kChannels], scales[kChannels], x_buffer[kSumChunk], grad_buffer[kSumChunk];
  OutputTile<Element> output(task);
  for (int64_t begin = part.first_channel; begin < part.last_channel; begin += kChannels) {
    const int64_t width = smaller(kChannels, part.last_channel - begin);
    const int64_t tile = width == task.layout.channels ? kSumChunk / width : 1;  // elements of a channel, one block
    for (int64_t c = 0; c < width; ++c) {
      scales[c] = power_of_two<Real>(task.fracs[begin + c]);
    }
    for (int64_t first = part.first; first < part.last; first += kSumChunk) {
      const int64_t last = smaller(part.last, first + kSumChunk);
      __builtin_memset(sums, 0, sizeof(sums));
      for (int64_t j = first; j < last; j += tile) {
        const int64_t rows = smaller(tile, last - j), start = j * task.layout.channels + begin;
        const Real* x = load_tile<Element>(task.x, start, rows * width, x_buffer);
        const Real* grad = load_tile<Element>(task.grad, start, rows * width, grad_buffer);
        Real* grad_x = output.at(start);
        for (int64_t r = 0; r < rows; ++r) {
          const int64_t at = r * width;
          loop.across(grad + at, x + at, width, scales, loop.format, grad_x + at, sums[(j + r) % kSumLanes]);
        }
        output.store(start, rows * width);
      }
      for (int64_t c = 0; c < width; ++c) {
        Real lanes[kSumLanes];
        for (int lane = 0; lane < kSumLanes; ++lane) {
          lanes[lane] = sums[lane][c];
        }
        task.partials[(begin + c) * task.chunks + first / kSumChunk] = add_lanes(lanes);
      }
    }
  }
}

template <typename Element>
void learned_backward(const FakeQuantTask& task, int64_t begin, int64_t end) {
  const auto [outer, channels, inner] = task.layout;
  const int64_t length = outer * inner, part_length = task.part_chunks * kSumChunk;
  LearnedLoop<typename Element::Real> loop(task);
  const auto walk = inner >= kLongRun || outer == 1 ? learned_long_runs<Element>
                    : inner == 1                    ? learned_neighbours<Element>
                                                    : learned_short_runs<Element>;
  while (begin < end) {
    const int64_t part = begin / channels, channel = begin % channels, count = smaller(channels - channel, end - begin);
    const int64_t first = part * part_length;
    walk(task, {channel, channel + count, first, smaller(length, first + part_length)}, loop);
    begin += count;
  }
}

// Calls kernel(element type tag).
template <typename Kernel>
void with_element(ElementType type, const Kernel& kernel) {
  switch (type) {
    case ElementType::kFloat32:
      return kernel(Float32{});
    case ElementType::kFloat64:
      return kernel(Float64{});
    case ElementType::kFloat16:
      return kernel(Float16{});
    case ElementType::kBfloat16:
      return kernel(Bfloat16{});
  }
}

// The table that a source file exports under the name of its instruction set.
constexpr FakeQuantKernels kFakeQuantKernels{
    [](const FakeQuantTask& task, int64_t begin, int64_t end) {
      with_element(task.type, [&](auto element) { forward<decltype(element)>(task, begin, end); });
    },
    [](const FakeQuantTask& task, int64_t begin, int64_t end) {
      with_element(task.type, [&](auto element) { backward<decltype(element)>(task, begin, end); });
    },
    [](const FakeQuantTask& task, int64_t begin, int64_t end) {
      with_element(task.type, [&](auto element) { learned_backward<decltype(element)>(task, begin, end); });
    },
};

}  // namespace
}  // namespace yhw

#endif  // YHW_CPU_FAKE_QUANT_POW2_KERNEL_H_
