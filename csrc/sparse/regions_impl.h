// SPDX-License-Identifier: Apache-2.0
// Blocks of 16 output channels, for any instruction set: see regions.h. Included like kernels_impl.h, after it.
//
// Isa, besides: kPixels, most pixels whose sums of 16 channels fit the registers; transpose(to, from, step): a square
// of lanes of elements into registers; kSpreads, whether to load inputs by four: broadcast_four(p), spread(v, i).
#ifndef YHW_SPARSE_REGIONS_IMPL_H_
#define YHW_SPARSE_REGIONS_IMPL_H_

#include "kernels_impl.h"

namespace yhw {
namespace sparse {
namespace {

// Sums of neighbouring pixels and 16 channels: [rows][columns][16].
template <typename Element>
struct PixelSpan {
  const Element* input;  // of the first pixel, at tap 0
  const uint32_t* offsets;
  const Element* weights;
  int64_t weight_step, count;
  const Element* bias;  // [16], or null: go on with the sums
  Element* sums;
  int64_t input_pitch, sum_pitch;  // from row to row, in elements
};

// Whether the input of a pixel of a run comes out of a load of four. Loads alone would be the bottleneck where one is
// needed for every product; shuffles run besides them, and in every third group of four they take enough off.
template <class Isa>
constexpr bool is_spread(int column, int columns) {
  return Isa::kSpreads && column / 4 % 3 == 1 && column / 4 * 4 + 4 <= columns;
}

// The input of a pixel in all lanes; `four` is that of its group, loaded with the first.
template <class Isa>
YHW_INLINE typename Isa::Vector input_of(const typename Isa::Element* row, int column, bool spread,
                                         typename Isa::Vector& four) {
  if constexpr (Isa::kSpreads) {
    if (spread) {
      four = column % 4 == 0 ? Isa::broadcast_four(row + column) : four;
      return Isa::spread(four, column % 4);
    }
  }
  return Isa::broadcast(row[column]);
}

template <class Isa, int Rows, int Columns>
void accumulate_pixels(const PixelSpan<typename Isa::Element>& span) {
  using Element = typename Isa::Element;
  constexpr int kVectors = kRegionRows / Isa::kLanes, kCount = Rows * Columns;
  typename Isa::Vector sum[kCount][kVectors];
  YHW_UNROLL for (int p = 0; p < kCount; ++p) {
    const Element* from = span.bias;
    if (from == nullptr) {
      from = span.sums + p / Columns * span.sum_pitch + p % Columns * kRegionRows;
    }
    YHW_UNROLL for (int v = 0; v < kVectors; ++v) { sum[p][v] = Isa::load(from + v * Isa::kLanes); }
  }
  const Element* weights = span.weights;
  const int64_t step = span.weight_step, pitch = span.input_pitch;
  const uint32_t* const end = span.offsets + span.count;
  for (const uint32_t* offset = span.offsets; offset != end; ++offset, weights += step) {
    const Element* at[Rows];
    YHW_UNROLL for (int r = 0; r < Rows; ++r) { at[r] = span.input + *offset + r * pitch; }
    typename Isa::Vector weight[kVectors];
    YHW_UNROLL for (int v = 0; v < kVectors; ++v) { weight[v] = Isa::load_unaligned(weights + v * Isa::kLanes); }
    typename Isa::Vector four{};
    YHW_UNROLL for (int p = 0; p < kCount; ++p) {
      const int column = p % Columns;
      const auto x = input_of<Isa>(at[p / Columns], column, is_spread<Isa>(column, Columns), four);
      YHW_UNROLL for (int v = 0; v < kVectors; ++v) { sum[p][v] = Isa::fma(weight[v], x, sum[p][v]); }
    }
  }
  YHW_UNROLL for (int p = 0; p < kCount; ++p) {
    Element* to = span.sums + p / Columns * span.sum_pitch + p % Columns * kRegionRows;
    YHW_UNROLL for (int v = 0; v < kVectors; ++v) { Isa::store(to + v * Isa::kLanes, sum[p][v]); }
  }
}

template <class Isa, int Rows, int... Column>
YHW_INLINE void dispatch_columns(int columns, const PixelSpan<typename Isa::Element>& span,
                                 std::integer_sequence<int, Column...>) {
  using Function = void (*)(const PixelSpan<typename Isa::Element>&);
  static constexpr Function kTable[] = {accumulate_pixels<Isa, Rows, Column + 1>...};
  kTable[columns - 1](span);
}

template <class Isa>
class RegionRun {
 public:
  using Element = typename Isa::Element;
  static constexpr int64_t kLineElements = 64 / sizeof(Element);
  static constexpr int64_t kAhead = 2;  // channels whose input is fetched before it is copied

  RegionRun(const RegionJob<Element>& job, const RegionWorkspace<Element>& workspace)
      : job_(job), r_(job.regions), work_(workspace) {}

  void run(int64_t region, int64_t first, int64_t last) {
    locate(region);
    if (!r_.in_place) {
      list_loads();
    }
    const ConvShape& s = r_.shape;
    const int64_t per_group = job_.problem.block_row_count() / s.groups;
    const int64_t chunk = job_.problem.weights.chunk, channels = s.group_channels();
    first_ = first;
    for (int64_t group = s.groups == 1 ? 0 : first / per_group; first < last; ++group) {
      const int64_t stop = s.groups == 1 || (group + 1) * per_group > last ? last : (group + 1) * per_group;
      for (int64_t begin = 0, index = 0; begin < channels; begin += chunk, ++index) {
        const int64_t end = begin + chunk < channels ? begin + chunk : channels;
        take_input(group * channels, begin, end);
        for (int64_t row = first; row < stop; ++row) {
          run_row(index, row, end == channels);
        }
      }
      first = stop;
    }
  }

 private:
  void locate(int64_t region) {
    const ConvShape& s = r_.shape;
    image_ = region / (r_.regions_y * r_.regions_x);
    y_ = region / r_.regions_x % r_.regions_y * r_.rows;
    x_ = region % r_.regions_x * r_.columns;
    rows_ = r_.rows < s.out_height() - y_ ? r_.rows : s.out_height() - y_;
    columns_ = r_.columns < s.out_width() - x_ ? r_.columns : s.out_width() - x_;
  }

  void list_loads() {
    const ConvShape& s = r_.shape;
    load_count_ = 0;
    const int64_t input_rows = (rows_ - 1) * s.stride_h + (s.kernel_h - 1) * s.dilation_h + 1;
    for (int64_t row = 0; row < input_rows; ++row) {
      const int64_t y = y_ * s.stride_h - s.pad_h + row;
      for (int64_t phase = 0; phase < r_.phases; ++phase) {
        for (int64_t column = 0; column < r_.phase_pitch; column += Isa::kLanes) {
          const int64_t x = (x_ + column) * s.stride_w - s.pad_w + phase;
          const bool inside = y >= 0 && y < s.height;
          const uint32_t mask = inside ? lanes_inside(x, s.stride_w, s.width, Isa::kLanes) : 0;
          const int64_t map = mask == 0 ? 0 : y * s.width + x;
          const int64_t place = row * r_.pitch() + phase * r_.phase_pitch + column;
          work_.loads[load_count_++] = {map, static_cast<int32_t>(place), mask};
        }
      }
    }
  }

  // Channels [begin, end) of a group, copied into the buffer unless they are read in place.
  void take_input(int64_t group_start, int64_t begin, int64_t end) {
    const ConvShape& s = r_.shape;
    const int64_t pixels = s.height * s.width;
    const Element* from = job_.problem.x + (image_ * s.in_channels + group_start + begin) * pixels;
    if (r_.in_place) {
      input_ = from + x_;
      return;
    }
    input_ = work_.input;
    Element* to = work_.input;
    for (int64_t c = begin; c < end; ++c, to += r_.channel_elements(), from += pixels) {
      for (int64_t i = 0; i < load_count_; ++i) {
        const Copy& copy = work_.loads[i];
        Isa::prefetch(from + copy.map + kAhead * pixels);
        Isa::template copy_in<Isa::kLanes>(to + copy.tile, from + copy.map, copy.mask, s.stride_w,
                                           job_.problem.outside);
      }
    }
  }

  void run_row(int64_t chunk, int64_t row, bool is_last_chunk) {
    const Weights<Element>& w = job_.problem.weights;
    const int32_t* starts = w.starts + chunk * job_.problem.block_row_count() + row;
    const int64_t size = r_.pixels() * kRegionRows;
    const bool is_only_chunk = chunk == 0 && is_last_chunk;
    for (int64_t part = 0; part < w.block_rows; part += kRegionRows) {
      PixelSpan<Element> span;
      span.offsets = job_.offsets + starts[0];
      span.weights = w.values + int64_t{starts[0]} * w.block_rows + part;
      span.weight_step = w.block_rows;
      span.count = starts[1] - starts[0];
      span.bias = chunk == 0 ? bias_of(row * w.block_rows + part) : nullptr;
      span.input_pitch = r_.shape.stride_h * r_.pitch();
      span.sum_pitch = r_.columns * kRegionRows;
      Element* sums = work_.sums;
      if (!is_only_chunk) {
        sums += ((row - first_) * w.block_rows + part) / kRegionRows * size;
      }
      if (is_last_chunk) {
        prefetch_output(row * w.block_rows + part);
      }
      run_pixels(span, sums);
      if (is_last_chunk) {
        copy_out(row * w.block_rows + part, sums);
      }
    }
  }

  const Element* bias_of(int64_t channel) {
    const Problem<Element>& p = job_.problem;
    for (int64_t m = 0; m < kRegionRows; ++m) {
      work_.bias[m] = p.bias != nullptr && channel + m < p.shape.out_channels ? p.bias[channel + m] : Element{0};
    }
    return work_.bias;
  }

  // All pixels of the region, in runs of a row, or of two where both fit the registers.
  void run_pixels(PixelSpan<Element>& span, Element* sums) {
    constexpr int kMost = Isa::kPixels, kHalf = Isa::kPixels / 2;
    for (int64_t y = 0; y < rows_;) {
      const bool both = columns_ <= kHalf && y + 1 < rows_;
      int64_t x = 0;
      for (int64_t runs = (columns_ + kMost - 1) / kMost; runs > 0; --runs) {
        const int64_t now = (columns_ - x + runs - 1) / runs;
        span.input = input_ + y * span.input_pitch + x;
        span.sums = sums + y * span.sum_pitch + x * kRegionRows;
        if (both) {
          dispatch_columns<Isa, 2>(static_cast<int>(now), span, std::make_integer_sequence<int, kHalf>());
        } else {
          dispatch_columns<Isa, 1>(static_cast<int>(now), span, std::make_integer_sequence<int, kMost>());
        }
        x += now;
      }
      y += both ? 2 : 1;
    }
  }

  // Lines that copy_out writes are fetched while their sums are computed.
  YHW_INLINE void prefetch_output(int64_t channel) {
    const Problem<Element>& p = job_.problem;
    const int64_t width = r_.shape.out_width(), map = r_.shape.out_height() * width;
    const int64_t left = p.shape.out_channels - channel, channels = left < kRegionRows ? left : kRegionRows;
    for (int64_t m = 0; m < channels; ++m) {
      const Element* to = p.y + (image_ * p.shape.out_channels + channel + m) * map + y_ * width + x_;
      for (int64_t y = 0; y < rows_; ++y, to += width) {
        for (int64_t x = 0; x < columns_; x += kLineElements) {
          Isa::prefetch(to + x);
        }
      }
    }
  }

  void copy_out(int64_t channel, const Element* sums) {
    const Problem<Element>& p = job_.problem;
    const ConvShape& s = r_.shape;
    const int64_t width = s.out_width(), map = s.out_height() * width;
    const auto slope = Isa::broadcast(p.slope);
    for (int64_t half = 0; half < kRegionRows; half += Isa::kLanes) {
      const int64_t left = s.out_channels - channel - half;
      const int channels = static_cast<int>(left < Isa::kLanes ? left : Isa::kLanes);
      Element* const to = p.y + (image_ * s.out_channels + channel + half) * map + y_ * width + x_;
      for (int64_t y = 0; y < rows_; ++y) {
        for (int64_t x = 0; x < columns_; x += Isa::kLanes) {
          typename Isa::Vector square[Isa::kLanes];
          Isa::transpose(square, sums + (y * r_.columns + x) * kRegionRows + half, kRegionRows);
          const uint32_t mask = lanes_inside(x, 1, columns_, Isa::kLanes);
          Element* const row = to + y * width + x;
          YHW_UNROLL for (int m = 0; m < Isa::kLanes; ++m) {
            if constexpr (std::is_floating_point<Element>::value) {
              square[m] = activate<Isa>(p.activation, slope, square[m]);
            }
            if (m < channels) {
              Isa::store_lanes(row + m * map, square[m], mask);
            }
          }
        }
      }
    }
  }

  const RegionJob<Element>& job_;
  const Regions& r_;
  const RegionWorkspace<Element>& work_;
  const Element* input_ = nullptr;  // of the chunk
  int64_t image_ = 0, y_ = 0, x_ = 0, rows_ = 0, columns_ = 0, first_ = 0, load_count_ = 0;
};

template <class Isa>
void run_region(const RegionJob<typename Isa::Element>& job, int64_t region, int64_t first, int64_t last,
                const RegionWorkspace<typename Isa::Element>& workspace) {
  RegionRun<Isa>(job, workspace).run(region, first, last);
}

template <class Isa>
Kernels<typename Isa::Element> make_kernels_with_regions() {
  return {Isa::kLanes,     Isa::kMaxRows, Isa::kRuns,     quads_function<Isa>(),
          Isa::kPlaceTaps, run_tile<Isa>, run_region<Isa>};
}

}  // namespace
}  // namespace sparse
}  // namespace yhw

#endif  // YHW_SPARSE_REGIONS_IMPL_H_
