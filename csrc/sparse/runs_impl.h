// SPDX-License-Identifier: Apache-2.0
// Moves between maps and tiles of runs, for instruction sets that expand and compress vectors: see tiling.h and
// kernels_impl.h.
//
// Isa, besides: kRuns, whether it has them; take_windows, put_windows: a square of lanes of elements, with the gaps
// between the rows of a map.
#ifndef YHW_SPARSE_RUNS_IMPL_H_
#define YHW_SPARSE_RUNS_IMPL_H_

#include "spans_impl.h"

namespace yhw {
namespace sparse {
namespace {

// A map in a raster: rows `pitch` apart, the first element at column pad_w of row pad_h.
struct Raster {
  int64_t pitch, pad_h, pad_w, height, width;

  // The elements of the map among `count` of the raster: they follow each other in the map.
  Copy window(int64_t start, int64_t count) const {
    Copy copy{0, 0, 0};
    int64_t row = start / pitch - pad_h, column = start % pitch;
    for (int64_t done = 0; done < count; column = 0, ++row) {
      const int64_t left = pitch - column, now = left < count - done ? left : count - done;
      const int64_t first = column > pad_w ? column : pad_w;
      const int64_t stop = column + now < pad_w + width ? column + now : pad_w + width;
      if (row >= 0 && row < height && first < stop) {
        if (copy.mask == 0) {
          copy.map = row * width + first - pad_w;
        }
        copy.mask |= ((uint32_t{1} << (stop - first)) - 1) << (done + first - column);
      }
      done += now;
    }
    return copy;
  }
};

template <class Isa>
class RunCopies {
 public:
  using Element = typename Isa::Element;

  RunCopies(const Job<Element>& job, const Workspace<Element>& workspace)
      : job_(job), t_(job.tiling), work_(workspace) {}

  // Lists what a tile reads and writes.
  void list(int64_t tile) {
    const ConvShape& s = t_.shape;
    const Raster in{t_.pitch, s.pad_h, s.pad_w, s.height, s.width};
    const Raster out{t_.pitch, 0, 0, s.out_height(), s.out_width()};
    for (int64_t lane = 0; lane < Isa::kLanes; ++lane) {
      const int64_t index = tile * Isa::kLanes + lane;
      const bool exists = index < t_.strips;
      const int64_t image = exists ? index / t_.strips_x : 0, start = index % t_.strips_x * t_.rows;
      Copy* load = work_.loads + lane;
      for (int64_t r = 0; r < s.kernel_h; ++r) {
        for (int64_t first = 0; first < t_.copy_vectors; first += Isa::kLanes, load += Isa::kLanes) {
          *load = exists ? in.window(start + r * s.dilation_h * t_.pitch + first, Isa::kLanes) : Copy{0, 0, 0};
          load->map += image * s.in_channels * s.height * s.width;
        }
      }
      Copy& store = work_.stores[lane];
      store = exists ? out.window(start, t_.rows) : Copy{0, 0, 0};
      store.map += image * s.out_channels * t_.pixels;
    }
  }

  // Channels [begin, end) of a group into the tile buffer; asks for those of the next chunk, or of the next tile.
  void copy_in(int64_t group_start, int64_t begin, int64_t end, int64_t channels) {
    const ConvShape& s = t_.shape;
    const int64_t pixels = s.height * s.width;
    const int64_t ahead = end < channels ? (end - begin) * pixels : Isa::kLanes * t_.rows - begin * pixels;
    Element* to = work_.input;
    for (int64_t c = begin; c < end; ++c) {
      const Element* from = job_.problem.x + (group_start + c) * pixels;
      const Copy* copy = work_.loads;
      for (int64_t r = 0; r < s.kernel_h; ++r) {
        for (int left = t_.copy_vectors; left > 0; left -= Isa::kLanes, copy += Isa::kLanes) {
          const int vectors = left < Isa::kLanes ? left : Isa::kLanes;
          Isa::take_windows(to, vectors, from, copy, job_.problem.outside);
          to += vectors * Isa::kLanes;
        }
      }
      for (int64_t lane = 0; lane < Isa::kLanes; ++lane) {  // the last row of the kernel
        Isa::prefetch(from + copy[lane - Isa::kLanes].map + ahead);
      }
    }
  }

  // Where whole vectors of a channel go: nowhere.
  const Copy* direct() const { return nullptr; }

  // Lines that the next row of blocks writes are fetched while this one is computed.
  YHW_INLINE void prefetch_output(int64_t channel) {
    const Problem<Element>& p = job_.problem;
    for (int64_t m = 0; m < p.weights.block_rows && channel + m < p.shape.out_channels; ++m) {
      for (int64_t lane = 0; lane < Isa::kLanes; ++lane) {
        Isa::prefetch(p.y + (channel + m) * t_.pixels + work_.stores[lane].map);
      }
    }
  }

  // The result of a row of blocks, whose first channel it is.
  void copy_out(int64_t channel) {
    const Problem<Element>& p = job_.problem;
    const Element* from = work_.result;
    for (int64_t m = 0; m < p.weights.block_rows && channel + m < p.shape.out_channels; ++m) {
      Isa::put_windows(p.y + (channel + m) * t_.pixels, work_.stores, from, t_.rows);
      from += int64_t{t_.rows} * Isa::kLanes;
    }
  }

 private:
  const Job<Element>& job_;
  const Tiling& t_;
  const Workspace<Element>& work_;
};

}  // namespace
}  // namespace sparse
}  // namespace yhw

#endif  // YHW_SPARSE_RUNS_IMPL_H_
