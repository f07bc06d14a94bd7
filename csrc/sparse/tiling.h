// SPDX-License-Identifier: Apache-2.0
// How the output of a convolution is cut into tiles for the sparse kernels, and where a tile's input lies.
//
// A tile is `rows` vectors of `lanes` outputs of one output channel. A vector is made of lanes / strip pieces, each a
// run of `strip` neighbouring columns; the pieces of a tile are strips of `rows` map rows, taken from anywhere in the
// batch. The input of a tile is copied channel by channel: one copy per kernel column, shifted by that column, so that
// every tap (r, s) reads whole aligned vectors: vector t of the output needs vector tap_vector(r, s) + t of the
// channel.
//
// Or a tile is one run per lane, of `rows` neighbouring outputs of the raster: the map with its rows `pitch` apart, so
// that the padding to the right of a row is that to the left of the next. Vector t holds element t of every run, so a
// copy per kernel row serves all its columns: fewer lanes are lost at the ends of rows, for a transposition of all that
// is copied.
#ifndef YHW_SPARSE_TILING_H_
#define YHW_SPARSE_TILING_H_

#include <cstdint>
#include <vector>

namespace yhw {
namespace sparse {

// x: [batch, in_channels, height, width] -> y: [batch, out_channels, out_height, out_width].
struct ConvShape {
  int64_t batch, in_channels, height, width, out_channels;
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups;

  int64_t out_height() const { return (height + 2 * pad_h - dilation_h * (kernel_h - 1) - 1) / stride_h + 1; }
  int64_t out_width() const { return (width + 2 * pad_w - dilation_w * (kernel_w - 1) - 1) / stride_w + 1; }
  int64_t kernel_size() const { return kernel_h * kernel_w; }
  int64_t group_channels() const { return in_channels / groups; }
};

// Whether the output's pixels are the input's, across the ends of rows.
inline bool is_flat(const ConvShape& s) {
  return s.kernel_size() == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad_h == 0 && s.pad_w == 0;
}

// An input row of a tile, counted from the row of its first output at tap 0, and its place among a copy's vectors.
struct TileRow {
  int64_t input_row;
  int32_t slot;
};

struct Tiling {
  ConvShape shape;  // `flat`: of the map as rows of `lanes` pixels, without kernel, stride and padding
  bool flat;        // is_flat
  bool runs;        // a lane is a run of the raster
  int64_t pixels;   // of one output channel; the last row of a flat map may be shorter
  int64_t pitch;    // of the raster
  int32_t lanes, strip, rows;
  int64_t strips_x, strips_y, strips, tiles;  // of runs, strips_x are those of an image
  std::vector<TileRow> input_rows;
  std::vector<uint16_t> tap_vectors;  // [kernel_h * kernel_w]: first vector of the tap, in vectors of its channel
  int32_t copy_vectors;               // of one shifted copy, or of one kernel row of runs
  int32_t channel_vectors;            // of all copies of a channel

  // Entries of the lists of what a tile reads and writes.
  int64_t load_count() const {
    return runs ? shape.kernel_h * ((copy_vectors + lanes - 1) / lanes) * lanes
                : static_cast<int64_t>(input_rows.size()) * shape.kernel_w * (lanes / strip);
  }
  int64_t store_count() const { return runs ? lanes : int64_t{rows} * (lanes / strip); }

  // Where strip `index` begins: its image and the row and column of its first output.
  struct Strip {
    int64_t image, y, x;
  };
  Strip locate(int64_t index) const {
    const int64_t per_image = strips_x * strips_y, in_image = index % per_image;
    return {index / per_image, in_image / strips_x * rows, in_image % strips_x * strip};
  }
};

struct TilingOptions {
  int32_t lanes, max_rows;
  int32_t chunk;     // channels that are in the tile buffer together
  bool runs;         // may be chosen
  double kept_taps;  // mean number of an output channel
};

// The tiling with the least work.
Tiling make_tiling(const ConvShape& shape, const TilingOptions& options);

}  // namespace sparse
}  // namespace yhw

#endif  // YHW_SPARSE_TILING_H_
