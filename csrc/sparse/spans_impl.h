// SPDX-License-Identifier: Apache-2.0
// Sums of a tile in registers, for any instruction set: see kernels_impl.h.
#ifndef YHW_SPARSE_SPANS_IMPL_H_
#define YHW_SPARSE_SPANS_IMPL_H_

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

}  // namespace
}  // namespace sparse
}  // namespace yhw

#endif  // YHW_SPARSE_SPANS_IMPL_H_
