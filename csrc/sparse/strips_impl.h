// SPDX-License-Identifier: Apache-2.0
// Moves between maps and tiles of strips, for any instruction set: see tiling.h and kernels_impl.h.
#ifndef YHW_SPARSE_STRIPS_IMPL_H_
#define YHW_SPARSE_STRIPS_IMPL_H_

#include "spans_impl.h"

namespace yhw {
namespace sparse {
namespace {

// Lanes l < strip with 0 <= start + l * step < size.
YHW_INLINE uint32_t lanes_inside(int64_t start, int64_t step, int64_t size, int strip) {
  int64_t first = start >= 0 ? 0 : (-start + step - 1) / step;
  int64_t stop = start >= size ? 0 : (size - start + step - 1) / step;
  first = first < strip ? first : strip;
  stop = stop < strip ? stop : strip;
  return stop <= first ? 0 : (uint32_t{1} << stop) - (uint32_t{1} << first);
}

template <class Isa, int Strip>
class StripCopies {
 public:
  using Element = typename Isa::Element;
  static constexpr int kPieces = Isa::kLanes / Strip;

  StripCopies(const Job<Element>& job, const Workspace<Element>& workspace)
      : job_(job), t_(job.tiling), work_(workspace) {}

  // Lists what a tile reads and writes.
  void list(int64_t tile) {
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

  // Where whole vectors of a channel go; null where it takes copy_out.
  const Copy* direct() const { return Strip == Isa::kLanes ? work_.stores : nullptr; }

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

  // The result of a row of blocks, whose first channel it is.
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

 private:
  static YHW_INLINE int64_t valid(int64_t index, int64_t size) { return index >= 0 && index < size; }

  uint32_t mask_of(int64_t row, int64_t start, int64_t step, int64_t width) const {
    if (t_.flat) {  // the last row of a flat map may be shorter
      return lanes_inside(row * t_.lanes, 1, t_.pixels, Strip);
    }
    return lanes_inside(start, step, width, Strip);
  }

  const Job<Element>& job_;
  const Tiling& t_;
  const Workspace<Element>& work_;
  int64_t load_count_ = 0, store_count_ = 0;
};

}  // namespace
}  // namespace sparse
}  // namespace yhw

#endif  // YHW_SPARSE_STRIPS_IMPL_H_
