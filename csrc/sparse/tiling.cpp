// SPDX-License-Identifier: Apache-2.0
#include "tiling.h"

#include <algorithm>
#include <stdexcept>

namespace yhw {
namespace sparse {
namespace {

constexpr int64_t kMaxOffset = 65534;  // offsets into the tile buffer are uint16, in vectors; 65535 is none

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Chooses strip width and rows: the fewest vectors to compute, with a charge per tile for the copies around them.
void choose_tile(Tiling& t, int32_t max_rows) {
  const int64_t height = t.shape.out_height(), width = t.shape.out_width();
  double best = -1;
  for (int32_t strip = t.lanes; strip >= 4 && strip >= t.lanes / 4; strip /= 2) {
    for (int32_t rows = static_cast<int32_t>(std::min<int64_t>(max_rows, height)); rows >= 1; --rows) {
      const int64_t strips_x = ceil_div(width, strip), strips_y = ceil_div(height, rows);
      const int64_t strips = strips_x * strips_y * t.shape.batch, tiles = ceil_div(strips, t.lanes / strip);
      // One broadcast of a weight serves all rows; narrower strips cost shorter copies in and out.
      const double cost = static_cast<double>(tiles) * (rows + 1.0 + 1.2 * (t.lanes / strip - 1));
      if (best < 0 || cost < best) {
        best = cost;
        t.strip = strip;
        t.rows = rows;
        t.strips_x = strips_x;
        t.strips_y = strips_y;
        t.strips = strips;
        t.tiles = tiles;
      }
    }
    if (t.flat) {
      break;  // its strips are whole vectors
    }
  }
}

// Input rows that some tap of some output row reads, those of one stride phase next to each other: then the vectors of
// a tap follow each other, whatever the stride.
void share_rows(Tiling& t) {
  const ConvShape& s = t.shape;
  const int64_t span = (t.rows - 1) * s.stride_h + (s.kernel_h - 1) * s.dilation_h + 1;
  const int64_t per_phase = ceil_div(span, s.stride_h);
  std::vector<bool> used(static_cast<size_t>(span), false);
  for (int64_t r = 0; r < s.kernel_h; ++r) {
    for (int64_t y = 0; y < t.rows; ++y) {
      used[static_cast<size_t>(y * s.stride_h + r * s.dilation_h)] = true;
    }
  }
  const auto slot = [&](int64_t row) { return row % s.stride_h * per_phase + row / s.stride_h; };
  int64_t last = 0;
  for (int64_t row = 0; row < span; ++row) {
    if (used[static_cast<size_t>(row)]) {
      t.input_rows.push_back({row, static_cast<int32_t>(slot(row))});
      last = std::max(last, slot(row));
    }
  }
  t.copy_vectors = static_cast<int32_t>(last + 1);
  for (int64_t r = 0; r < s.kernel_h; ++r) {
    t.tap_vectors.push_back(static_cast<uint16_t>(slot(r * s.dilation_h)));
  }
}

// One run of rows per kernel row: smaller where a large dilation leaves rows between the taps unread.
void separate_rows(Tiling& t) {
  const ConvShape& s = t.shape;
  t.input_rows.clear();
  t.tap_vectors.clear();
  for (int64_t r = 0; r < s.kernel_h; ++r) {
    for (int64_t y = 0; y < t.rows; ++y) {
      t.input_rows.push_back({y * s.stride_h + r * s.dilation_h, static_cast<int32_t>(r * t.rows + y)});
    }
    t.tap_vectors.push_back(static_cast<uint16_t>(r * t.rows));
  }
  t.copy_vectors = static_cast<int32_t>(s.kernel_h * t.rows);
}

// tap_vectors of the kernel rows -> of all taps.
void add_columns(Tiling& t) {
  const std::vector<uint16_t> of_row = t.tap_vectors;
  t.tap_vectors.clear();
  for (const uint16_t row : of_row) {
    for (int64_t s = 0; s < t.shape.kernel_w; ++s) {
      t.tap_vectors.push_back(static_cast<uint16_t>(s * t.copy_vectors + row));
    }
  }
  t.channel_vectors = static_cast<int32_t>(t.shape.kernel_w * t.copy_vectors);
}

}  // namespace

Tiling make_tiling(const ConvShape& shape, int32_t lanes, int32_t max_rows, int32_t chunk) {
  Tiling t{};
  t.shape = shape;
  t.lanes = lanes;
  t.flat = is_flat(shape);
  t.pixels = shape.out_height() * shape.out_width();
  if (t.flat) {
    t.shape.height = ceil_div(t.pixels, lanes);
    t.shape.width = lanes;
  }
  for (int32_t rows = max_rows; rows >= 1; rows /= 2) {
    t.input_rows.clear();
    t.tap_vectors.clear();
    choose_tile(t, rows);
    share_rows(t);
    if (t.copy_vectors > t.shape.kernel_h * t.rows) {
      separate_rows(t);
    }
    if (chunk * t.shape.kernel_w * t.copy_vectors <= kMaxOffset) {
      add_columns(t);
      return t;
    }
  }
  throw std::runtime_error("sparse_conv2d: a chunk of channels must have at most 65534 vectors of input");
}

}  // namespace sparse
}  // namespace yhw
