// SPDX-License-Identifier: Apache-2.0
// The CPU kernels of fake_quant_pow2, compiled once per instruction set: plain loops over core/fake_quant.h that the
// compiler turns into vector code. No fused multiply-adds and a fixed order of sums: every path gives the same bits.
#ifndef YHW_CPU_FAKE_QUANT_POW2_KERNEL_H_
#define YHW_CPU_FAKE_QUANT_POW2_KERNEL_H_

#include "fake_quant_pow2_tiles.h"

namespace yhw {
namespace {

// The loops over elements. `ivdep`: the output may be the input itself, never an overlapping part of it.

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
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    y[i] = fake_quant<kRounding, kOverflow>(x[i], scale, step, codes);
  }
}

template <Rounding kRounding, Overflow kOverflow, typename Real>
void quantise_row(const Real* x, int64_t count, const Real* scale, const Real* step, const CodeRange& range, Real* y) {
  const CodeRange codes = range;
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    y[i] = fake_quant<kRounding, kOverflow>(x[i], scale[i], step[i], codes);
  }
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
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    grad_x[i] = fake_quant_grad<Overflow::kSaturate>(grad[i], x[i], scale, pass);
  }
}

template <typename Real>
void pass_row(const Real* grad, const Real* x, int64_t count, const Real* scale, const PassRange<Real>& range,
              Real* grad_x) {
  const PassRange<Real> pass = range;
#pragma GCC ivdep
  for (int64_t i = 0; i < count; ++i) {
    grad_x[i] = fake_quant_grad<Overflow::kSaturate>(grad[i], x[i], scale[i], pass);
  }
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

// What one chunk of a channel of the learned backward works with.
template <typename Real>
struct LearnedFormat {
  Real scale;
  PassRange<Real> pass;
  Real low;
  Real high;
};

// grad_x of `count` elements and the sums of their step gradients in lanes, element i in lane i % kSumLanes.
template <Rounding kRounding, typename Real>
void learned_run(const Real* grad, const Real* x, int64_t count, const LearnedFormat<Real>& format, Real* grad_x,
                 Real* lanes) {
  const LearnedFormat<Real> f = format;
  const auto element = [&](int64_t i, Real& sum) {
    const Real scaled = product(x[i], f.scale);
    sum += grad[i] * step_slope<kRounding>(scaled, f.pass, f.low, f.high);
    grad_x[i] = fake_quant_grad<Overflow::kSaturate>(grad[i], x[i], f.scale, f.pass);
  };
  Real sums[kSumLanes] = {};
  int64_t i = 0;
  for (; i + kSumLanes <= count; i += kSumLanes) {
#pragma GCC ivdep
    for (int lane = 0; lane < kSumLanes; ++lane) {
      element(i + lane, sums[lane]);
    }
  }
  for (int lane = 0; i < count; ++i, ++lane) {
    element(i, sums[lane]);
  }
  __builtin_memcpy(lanes, sums, sizeof(sums));
}

template <typename Real>
using LearnedRun = void (*)(const Real*, const Real*, int64_t, const LearnedFormat<Real>&, Real*, Real*);

template <typename Element>
void learned_backward(const FakeQuantTask& task, int64_t begin, int64_t end) {
  using Real = typename Element::Real;
  const auto [outer, channels, inner] = task.layout;
  const int64_t length = outer * inner, chunks = (length + kSumChunk - 1) / kSumChunk;
  LearnedFormat<Real> format{};
  LearnedRun<Real> loop = nullptr;
  with_modes(task.rounding, task.overflow, [&](auto rounding, auto overflow) {
    format.pass = learned_pass_range<rounding(), overflow(), Real>(task.gradient, task.range);
    format.low = static_cast<Real>(lowest_code<overflow()>(task.range));
    format.high = static_cast<Real>(task.range.hi);
    loop = learned_run<rounding(), Real>;
  });
  OutputTile<Element> output(task);
  alignas(kCacheLine) Real x_buffer[kSumChunk], grad_buffer[kSumChunk], out_buffer[kSumChunk], lanes[kSumLanes];
  for (int64_t index = begin; index < end; ++index) {
    // In the order of memory: through a channel where it has long runs, else through the channels.
    const bool along = inner >= kSumChunk;
    const int64_t chunk = along ? index % chunks : index / channels;
    const int64_t channel = along ? index / chunks : index % channels;
    const int64_t first = chunk * kSumChunk, count = smaller(kSumChunk, length - first);
    format.scale = power_of_two<Real>(task.fracs[channel]);
    double& partial = task.partials[channel * chunks + chunk];
    const int64_t run = first / inner, start = (run * channels + channel) * inner + first % inner;
    if (first % inner + count <= inner) {  // one run of memory
      const Real* x = load_tile<Element>(task.x, start, count, x_buffer);
      const Real* grad = load_tile<Element>(task.grad, start, count, grad_buffer);
      loop(grad, x, count, format, output.at(start), lanes);
      output.store(start, count);
      partial = add_lanes(lanes);
      continue;
    }
    const ChannelPieces pieces{inner, channels, channel, first, count};
    pieces.load<Element>(task.x, x_buffer);
    pieces.load<Element>(task.grad, grad_buffer);
    loop(grad_buffer, x_buffer, count, format, out_buffer, lanes);
    pieces.store<Element>(out_buffer, task.out);
    partial = add_lanes(lanes);
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
