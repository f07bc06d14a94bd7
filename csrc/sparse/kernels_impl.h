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

#include <cstring>
#include <type_traits>
#include <utility>

#include "kernels.h"

#define YHW_INLINE inline __attribute__((always_inline))
#define YHW_UNROLL _Pragma("GCC unroll 32")

namespace yhw {
namespace sparse {
namespace {

// One row of blocks, M of its output channels, Q vectors: all accumulators are in registers. Strides are in elements.
template <typename Element>
struct Span {
  const Element* tile;
  const uint16_t* offsets;
  const Element* weights;
  int64_t weight_step;
  int64_t count;
  const Element* from;
  int64_t from_channel, from_vector;
  Element* to;
  int64_t to_channel;
  Activation activation;  // none before the last chunk
  Element slope;
  const Copy* direct;  // where each vector goes from `to`, in the map; null: one after another
};

template <class Isa, int M, int Q>
struct Accumulators {
  using Element = typename Isa::Element;
  typename Isa::Vector sum[M][Q];

  YHW_INLINE void add(const Element* x, const Element* w) {
    if (M == 1) {  // the sums read the input from memory
      const auto weight = Isa::broadcast(w[0]);
      YHW_UNROLL for (int q = 0; q < Q; ++q) {
        sum[0][q] = Isa::fma(weight, Isa::load(x + q * Isa::kLanes), sum[0][q]);
      }
      return;
    }
    typename Isa::Vector in[Q];
    YHW_UNROLL for (int q = 0; q < Q; ++q) { in[q] = Isa::load(x + q * Isa::kLanes); }
    YHW_UNROLL for (int m = 0; m < M; ++m) {
      const auto weight = Isa::broadcast(w[m]);
      YHW_UNROLL for (int q = 0; q < Q; ++q) { sum[m][q] = Isa::fma(weight, in[q], sum[m][q]); }
    }
  }
};

// Four of them, the first in the lowest bits.
YHW_INLINE uint64_t four_places(const uint16_t* places) {
  uint64_t four;
  std::memcpy(&four, places, sizeof(four));
  return four;
}

template <class Isa, int M, int Q>
YHW_INLINE void accumulate(const Span<typename Isa::Element>& span) {
  using Element = typename Isa::Element;
  Accumulators<Isa, M, Q> acc;
  YHW_UNROLL for (int m = 0; m < M; ++m) {
    YHW_UNROLL for (int q = 0; q < Q; ++q) {
      acc.sum[m][q] = Isa::load(span.from + m * span.from_channel + q * span.from_vector);
    }
  }
  const Element* w = span.weights;
  const int64_t step = span.weight_step;
  // Places are read four at a time and four blocks ahead, or the loads of the input would wait for them.
  const uint16_t* offset = span.offsets;
  uint64_t ahead = four_places(offset);
  int64_t left = span.count;
  for (; left >= 4; left -= 4, w += 4 * step) {
    const Element* x[4];
    YHW_UNROLL for (int i = 0; i < 4; ++i) { x[i] = span.tile + (ahead >> (16 * i) & 0xffff) * Isa::kLanes; }
    ahead = four_places(offset += 4);
    YHW_UNROLL for (int i = 0; i < 4; ++i) { acc.add(x[i], w + i * step); }
  }
  for (; left > 0; --left, w += step, ahead >>= 16) {
    acc.add(span.tile + (ahead & 0xffff) * Isa::kLanes, w);
  }
  if constexpr (std::is_floating_point<Element>::value) {
    if (span.activation != Activation::kNone) {
      const auto slope = Isa::broadcast(span.slope);
      YHW_UNROLL for (int m = 0; m < M; ++m) {
        YHW_UNROLL for (int q = 0; q < Q; ++q) { acc.sum[m][q] = activate<Isa>(span.activation, slope, acc.sum[m][q]); }
      }
    }
  }
  Element* const to = span.to;
  const int64_t to_channel = span.to_channel;
  if (const Copy* const direct = span.direct) {
    YHW_UNROLL for (int m = 0; m < M; ++m) {
      YHW_UNROLL for (int q = 0; q < Q; ++q) {
        Isa::store_lanes(to + m * to_channel + direct[q].map, acc.sum[m][q], direct[q].mask);
      }
    }
    return;
  }
  YHW_UNROLL for (int m = 0; m < M; ++m) {
    YHW_UNROLL for (int q = 0; q < Q; ++q) { Isa::store(to + m * to_channel + q * Isa::kLanes, acc.sum[m][q]); }
  }
}

template <class Isa, int M, int Q>
void accumulate_span(const Span<typename Isa::Element>& span) {
  accumulate<Isa, M, Q>(span);
}

template <class Isa, int M, int... Q>
YHW_INLINE void dispatch_rows(int rows, const Span<typename Isa::Element>& span, std::integer_sequence<int, Q...>) {
  using Function = void (*)(const Span<typename Isa::Element>&);
  static constexpr Function kTable[] = {accumulate_span<Isa, M, Q + 1>...};
  kTable[rows - 1](span);
}

// M output channels of a row of blocks, all rows of the tile in runs of equal length as far as possible. The span is
// changed in place: a copy would be read before its parts have left the store queue.
template <class Isa, int M>
YHW_INLINE void all_rows(int rows, Span<typename Isa::Element>& span) {
  constexpr int kMost = Isa::max_rows(M);
  int done = 0;
  for (int runs = (rows + kMost - 1) / kMost; runs > 0; --runs) {
    const int now = (rows - done + runs - 1) / runs;
    dispatch_rows<Isa, M>(now, span, std::make_integer_sequence<int, kMost>());
    span.tile += now * Isa::kLanes;
    span.from += now * span.from_vector;
    if (span.direct != nullptr) {
      span.direct += now;
    } else {
      span.to += now * Isa::kLanes;
    }
    done += now;
  }
  span.tile -= rows * Isa::kLanes;
  span.weights += M;
  span.from += M * span.from_channel - rows * span.from_vector;
  span.to += M * span.to_channel;
  if (span.direct != nullptr) {
    span.direct -= rows;
  } else {
    span.to -= rows * Isa::kLanes;
  }
}

template <class Isa>
YHW_INLINE void all_channels(int channels, int rows, Span<typename Isa::Element>& span) {
  for (; channels >= 4; channels -= 4) {
    all_rows<Isa, 4>(rows, span);
  }
  if (channels >= 2) {
    all_rows<Isa, 2>(rows, span);
  }
  if (channels & 1) {
    all_rows<Isa, 1>(rows, span);
  }
}

// Lanes l < strip with 0 <= start + l * step < size.
YHW_INLINE uint32_t lanes_inside(int64_t start, int64_t step, int64_t size, int strip) {
  int64_t first = start >= 0 ? 0 : (-start + step - 1) / step;
  int64_t stop = start >= size ? 0 : (size - start + step - 1) / step;
  first = first < strip ? first : strip;
  stop = stop < strip ? stop : strip;
  return stop <= first ? 0 : (uint32_t{1} << stop) - (uint32_t{1} << first);
}

// One tile: lists what it reads and writes once, then runs through groups, chunks of channels and rows of blocks.
template <class Isa, int Strip>
class TileRun {
 public:
  using Element = typename Isa::Element;
  static constexpr int kPieces = Isa::kLanes / Strip;

  TileRun(const Job<Element>& job, const Workspace<Element>& workspace) : job_(job), t_(job.tiling), work_(workspace) {}

  void run(int64_t tile, int64_t first, int64_t last) {
    list_copies(tile);
    const ConvShape& s = job_.problem.shape;
    const int64_t per_group = job_.problem.block_row_count() / s.groups;
    const int64_t chunk = job_.problem.weights.chunk, channels = s.group_channels();
    for (int64_t group = s.groups == 1 ? 0 : first / per_group; first < last; ++group) {
      const int64_t stop = s.groups == 1 || (group + 1) * per_group > last ? last : (group + 1) * per_group;
      for (int64_t begin = 0, index = 0; begin < channels; begin += chunk, ++index) {
        const int64_t end = begin + chunk < channels ? begin + chunk : channels;
        copy_in(group * channels, begin, end, channels);
        run_rows(index, first, stop, end == channels);
      }
      first = stop;
    }
  }

 private:
  static YHW_INLINE int64_t valid(int64_t index, int64_t size) { return index >= 0 && index < size; }

  uint32_t mask_of(int64_t row, int64_t start, int64_t step, int64_t width) const {
    if (t_.flat) {  // the last row of a flat map may be shorter
      return lanes_inside(row * t_.lanes, 1, t_.pixels, Strip);
    }
    return lanes_inside(start, step, width, Strip);
  }

  void list_copies(int64_t tile) {
    const ConvShape& s = t_.shape;  // the map as it is cut into strips
    const int64_t pixels_in = job_.problem.shape.height * job_.problem.shape.width;
    const int64_t height = s.height, out_height = s.out_height(), out_width = s.out_width();
    load_count_ = store_count_ = 0;
    for (int piece = 0; piece < kPieces; ++piece) {
      const int64_t index = tile * kPieces + piece;
      const bool exists = index < t_.strips;
      const Tiling::Strip strip = t_.locate(exists ? index : 0);
      for (const TileRow& row : t_.input_rows) {
        const int64_t y = strip.y * s.stride_h - s.pad_h + row.input_row;
        for (int64_t column = 0; column < s.kernel_w; ++column) {
          const int64_t x = strip.x * s.stride_w - s.pad_w + column * s.dilation_w;
          const uint32_t mask = exists && valid(y, height) ? mask_of(y, x, s.stride_w, s.width) : 0;
          const int64_t map = mask == 0 ? 0 : strip.image * s.in_channels * pixels_in + y * s.width + x;
          const int64_t slot = column * t_.copy_vectors + row.slot;
          work_.loads[load_count_++] = {map, static_cast<int32_t>(slot * Isa::kLanes + piece * Strip), mask};
        }
      }
      for (int64_t row = 0; row < t_.rows; ++row) {
        const bool inside = exists && strip.y + row < out_height;
        const uint32_t mask = inside ? mask_of(strip.y + row, strip.x, 1, out_width) : 0;
        const int64_t map =
            inside ? strip.image * s.out_channels * t_.pixels + (strip.y + row) * out_width + strip.x : 0;
        work_.stores[store_count_++] = {map, static_cast<int32_t>(row * Isa::kLanes + piece * Strip), mask};
      }
    }
  }

  // Channels [begin, end) of a group into the tile buffer; asks for those of the next chunk, or of the next tile.
  void copy_in(int64_t group_start, int64_t begin, int64_t end, int64_t channels) {
    const ConvShape& s = job_.problem.shape;
    const int64_t pixels = s.height * s.width, columns = s.kernel_w, runs = load_count_ / columns;
    const int64_t ahead = end < channels ? (end - begin) * pixels : Strip * kPieces - begin * pixels;
    Element* to = work_.input;
    for (int64_t c = begin; c < end; ++c, to += int64_t{t_.channel_vectors} * Isa::kLanes) {
      const Element* from = job_.problem.x + (group_start + c) * pixels;
      const Copy* copy = work_.loads;
      for (int64_t run = 0; run < runs; ++run) {
        Isa::prefetch(from + copy->map + ahead);
        for (int64_t column = 0; column < columns; ++column, ++copy) {
          Isa::template copy_in<Strip>(to + copy->tile, from + copy->map, copy->mask, s.stride_w, job_.problem.outside);
        }
      }
    }
  }

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
      prefetch_output((row + 1) * block);
      span.activation = job_.problem.activation;
      span.slope = job_.problem.slope;
      // Whole vectors go straight to the map; a last row of blocks may have more channels than the map.
      const bool direct = Strip == Isa::kLanes && (row + 1) * block <= job_.problem.shape.out_channels;
      if (direct) {
        span.to = job_.problem.y + row * block * t_.pixels;
        span.to_channel = t_.pixels;
        span.direct = work_.stores;
      } else {
        span.to = work_.result;
      }
      kernel(span);
      if (!direct) {
        copy_out(row * block);
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

  // Lines that the next row of blocks writes are fetched while this one is computed.
  YHW_INLINE void prefetch_output(int64_t channel) {
    const Problem<Element>& p = job_.problem;
    for (int64_t m = 0; m < p.weights.block_rows && channel + m < p.shape.out_channels; ++m) {
      const Element* to = p.y + (channel + m) * t_.pixels;
      for (int64_t i = 0; i < store_count_; ++i) {
        Isa::prefetch(to + work_.stores[i].map);
      }
    }
  }

  void copy_out(int64_t channel) {
    const Problem<Element>& p = job_.problem;
    const Element* from = work_.result;
    for (int64_t m = 0; m < p.weights.block_rows && channel + m < p.shape.out_channels; ++m) {
      Element* to = p.y + (channel + m) * t_.pixels;
      for (int64_t i = 0; i < store_count_; ++i) {
        const Copy& copy = work_.stores[i];
        Isa::template copy_out<Strip>(to + copy.map, from + copy.tile, copy.mask);
      }
      from += int64_t{t_.rows} * Isa::kLanes;
    }
  }

  const Job<Element>& job_;
  const Tiling& t_;
  const Workspace<Element>& work_;
  int64_t load_count_ = 0, store_count_ = 0;
};

template <class Isa>
void run_tile(const Job<typename Isa::Element>& job, int64_t tile, int64_t first, int64_t last,
              const Workspace<typename Isa::Element>& workspace) {
  if (job.tiling.strip == Isa::kLanes) {
    TileRun<Isa, Isa::kLanes>(job, workspace).run(tile, first, last);
  } else if (job.tiling.strip == Isa::kLanes / 2) {
    TileRun<Isa, Isa::kLanes / 2>(job, workspace).run(tile, first, last);
  } else {
    TileRun<Isa, Isa::kLanes / 4 >= 4 ? Isa::kLanes / 4 : Isa::kLanes>(job, workspace).run(tile, first, last);
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
  return {Isa::kLanes, Isa::kMaxRows, quads_function<Isa>(), Isa::kPlaceTaps, run_tile<Isa>, nullptr};
}

}  // namespace
}  // namespace sparse
}  // namespace yhw

#endif  // YHW_SPARSE_KERNELS_IMPL_H_
