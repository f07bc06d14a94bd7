// SPDX-License-Identifier: Apache-2.0
// The sparse kernels for any instruction set. Included by one source file per instruction set, which defines the type
// Isa; everything here is in the unnamed namespace, so no code of one instruction set is linked into another.
//
// Isa: Element, Vector, kLanes, kMaxRows (of a tile), max_rows(M) (vectors of M output channels that fit the
// registers), load, store, store_lanes (those of a mask, unaligned), broadcast, fma(weight, x, sum) = weight * x + sum
// rounded once, copy_in<Strip>(to, from, mask, stride, outside), copy_out<Strip>(to, from, mask), prefetch, kPlaceTaps
// (Kernels::place_taps). For floats
// also maximum, minimum (the second operand where one is NaN) and leaky.
#ifndef YHW_SPARSE_KERNELS_IMPL_H_
#define YHW_SPARSE_KERNELS_IMPL_H_

#include "runs_impl.h"
#include "strips_impl.h"

namespace yhw {
namespace sparse {
namespace {

// One tile: lists what it reads and writes once, then runs through groups, chunks of channels and rows of blocks.
template <class Isa, class Copies>
class TileRun {
 public:
  using Element = typename Isa::Element;

  TileRun(const Job<Element>& job, const Workspace<Element>& workspace)
      : job_(job), t_(job.tiling), work_(workspace), copies_(job, workspace) {}

  void run(int64_t tile, int64_t first, int64_t last) {
    copies_.list(tile);
    const ConvShape& s = job_.problem.shape;
    const int64_t per_group = job_.problem.block_row_count() / s.groups;
    const int64_t chunk = job_.problem.weights.chunk, channels = s.group_channels();
    for (int64_t group = s.groups == 1 ? 0 : first / per_group; first < last; ++group) {
      const int64_t stop = s.groups == 1 || (group + 1) * per_group > last ? last : (group + 1) * per_group;
      for (int64_t begin = 0, index = 0; begin < channels; begin += chunk, ++index) {
        const int64_t end = begin + chunk < channels ? begin + chunk : channels;
        copies_.copy_in(group * channels, begin, end, channels);
        run_rows(index, first, stop, end == channels);
      }
      first = stop;
    }
  }

 private:
  void run_rows(int64_t chunk, int64_t first, int64_t last, bool is_last_chunk) {
    if (job_.problem.weights.block_rows == 1 && t_.rows <= Isa::max_rows(1)) {
      run_single_rows(std::make_integer_sequence<int, Isa::max_rows(1)>(), chunk, first, last, is_last_chunk);
    } else {
      run_rows_by(
          [this](Span<Element>& span) {
            all_channels<Isa>(static_cast<int>(job_.problem.weights.block_rows), t_.rows, span);
          },
          chunk, first, last, is_last_chunk);
    }
  }

  // Blocks of one channel are short work: the kernel is chosen once for all of them.
  template <int... Q>
  void run_single_rows(std::integer_sequence<int, Q...>, int64_t chunk, int64_t first, int64_t last, bool is_last) {
    using Function = void (TileRun::*)(int64_t, int64_t, int64_t, bool);
    static constexpr Function kTable[] = {&TileRun::template run_single_rows_of<Q + 1>...};
    (this->*kTable[t_.rows - 1])(chunk, first, last, is_last);
  }
  template <int Q>
  void run_single_rows_of(int64_t chunk, int64_t first, int64_t last, bool is_last) {
    run_rows_by([](Span<Element>& span) __attribute__((always_inline)) { accumulate<Isa, 1, Q>(span); }, chunk, first,
                last, is_last);
  }

  template <typename Kernel>
  YHW_INLINE void run_rows_by(const Kernel& kernel, int64_t chunk, int64_t first, int64_t last, bool is_last_chunk) {
    const Weights<Element>& w = job_.problem.weights;
    const int64_t block = w.block_rows, size = block * t_.rows * Isa::kLanes;
    const int32_t* starts = w.starts + chunk * job_.problem.block_row_count();
    const uint16_t* const offsets = job_.offsets;
    Element* kept = work_.accumulators;
    for (int64_t row = first; row < last; ++row, kept += size) {
      const int64_t start = starts[row];
      Span<Element> span;
      span.tile = work_.input;
      span.offsets = offsets + start;
      span.weights = w.values + start * block;
      span.weight_step = block;
      span.count = starts[row + 1] - start;
      span.from = kept;
      span.from_channel = span.to_channel = int64_t{t_.rows} * Isa::kLanes;
      span.from_vector = Isa::kLanes;
      if (chunk == 0) {
        spread_bias(row * block);
        span.from = work_.bias;
        span.from_channel = Isa::kLanes;
        span.from_vector = 0;
      }
      span.to = kept;
      span.activation = Activation::kNone;
      span.direct = nullptr;
      if (!is_last_chunk) {
        kernel(span);
        continue;
      }
      copies_.prefetch_output((row + 1) * block);
      span.activation = job_.problem.activation;
      span.slope = job_.problem.slope;
      // Whole vectors go straight to the map; a last row of blocks may have more channels than the map.
      const bool direct = copies_.direct() != nullptr && (row + 1) * block <= job_.problem.shape.out_channels;
      if (direct) {
        span.to = job_.problem.y + row * block * t_.pixels;
        span.to_channel = t_.pixels;
        span.direct = copies_.direct();
      } else {
        span.to = work_.result;
      }
      kernel(span);
      if (!direct) {
        copies_.copy_out(row * block);
      }
    }
  }

  void spread_bias(int64_t channel) {
    const Problem<Element>& p = job_.problem;
    for (int64_t m = 0; m < p.weights.block_rows; ++m) {
      const bool exists = p.bias != nullptr && channel + m < p.shape.out_channels;
      Isa::store(work_.bias + m * Isa::kLanes, Isa::broadcast(exists ? p.bias[channel + m] : Element{0}));
    }
  }

  const Job<Element>& job_;
  const Tiling& t_;
  const Workspace<Element>& work_;
  Copies copies_;
};

template <class Isa>
void run_tile(const Job<typename Isa::Element>& job, int64_t tile, int64_t first, int64_t last,
              const Workspace<typename Isa::Element>& workspace) {
  constexpr int kLanes = Isa::kLanes;
  if constexpr (Isa::kRuns) {
    if (job.tiling.runs) {
      TileRun<Isa, RunCopies<Isa>>(job, workspace).run(tile, first, last);
      return;
    }
  }
  if (job.tiling.strip == kLanes) {
    TileRun<Isa, StripCopies<Isa, kLanes>>(job, workspace).run(tile, first, last);
  } else if (job.tiling.strip == kLanes / 2) {
    TileRun<Isa, StripCopies<Isa, kLanes / 2>>(job, workspace).run(tile, first, last);
  } else {
    TileRun<Isa, StripCopies<Isa, (kLanes / 4 >= 4 ? kLanes / 4 : kLanes)>>(job, workspace).run(tile, first, last);
  }
}

// Kernels::make_quads; the compiler makes vectors of it.
inline void make_quads(const uint8_t* const* channels, int64_t pixels, uint32_t flip, int32_t* quads) {
  const uint8_t *a = channels[0], *b = channels[1], *c = channels[2], *d = channels[3];
  for (int64_t i = 0; i < pixels; ++i) {
    const uint32_t low = a[i] | static_cast<uint32_t>(b[i]) << 8;
    const uint32_t high = c[i] | static_cast<uint32_t>(d[i]) << 8;
    quads[i] = static_cast<int32_t>((low | high << 16) ^ flip);
  }
}

template <class Isa>
constexpr decltype(Kernels<typename Isa::Element>::make_quads) quads_function() {
  return std::is_same<typename Isa::Element, int32_t>::value ? make_quads : nullptr;
}

template <class Isa>
Kernels<typename Isa::Element> make_kernels() {
  return {Isa::kLanes, Isa::kMaxRows, Isa::kRuns, quads_function<Isa>(), Isa::kPlaceTaps, run_tile<Isa>, nullptr};
}

}  // namespace
}  // namespace sparse
}  // namespace yhw

#endif  // YHW_SPARSE_KERNELS_IMPL_H_
