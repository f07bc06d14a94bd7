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

Tiling make_strips(const ConvShape& shape, int32_t lanes, int32_t max_rows, int32_t chunk) {
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

Tiling make_runs(const ConvShape& s, int32_t lanes, int32_t rows) {
  Tiling t{};
  t.shape = s;
  t.lanes = t.strip = lanes;
  t.runs = true;
  t.rows = rows;
  t.pixels = s.out_height() * s.out_width();
  t.pitch = std::max(s.width + s.pad_w, s.out_width());
  t.strips_x = ceil_div((s.out_height() - 1) * t.pitch + s.out_width(), rows);
  t.strips_y = 1;
  t.strips = t.strips_x * s.batch;
  t.tiles = ceil_div(t.strips, lanes);
  t.copy_vectors = static_cast<int32_t>(rows + (s.kernel_w - 1) * s.dilation_w);
  t.channel_vectors = static_cast<int32_t>(s.kernel_h * t.copy_vectors);
  for (int64_t r = 0; r < s.kernel_h; ++r) {
    for (int64_t column = 0; column < s.kernel_w; ++column) {
      t.tap_vectors.push_back(static_cast<uint16_t>(r * t.copy_vectors + column * s.dilation_w));
    }
  }
  return t;
}

// Multiply-adds of a vector that take as long as all for one output channel, its share of the copies included.
double cost_of(const Tiling& t, const TilingOptions& options) {
  constexpr double kTap = 1.5, kSquare = 55, kCopy = 3;
  const ConvShape& s = t.shape;
  const double inputs = static_cast<double>(s.group_channels() * s.groups) / static_cast<double>(s.out_channels);
  double in = 0, out = 0;
  if (t.runs) {
    in = static_cast<double>(s.kernel_h * ceil_div(t.copy_vectors, t.lanes)) * kSquare;
    out = kSquare;
  } else {
    const double pieces = t.lanes / t.strip;
    in = static_cast<double>(t.input_rows.size()) * static_cast<double>(s.kernel_w) * pieces * kCopy;
    out = t.rows * pieces * kCopy;
  }
  return static_cast<double>(t.tiles) * (options.kept_taps * (t.rows + kTap) + inputs * in + out);
}

}  // namespace

Tiling make_tiling(const ConvShape& shape, const TilingOptions& options) {
  Tiling best = make_strips(shape, options.lanes, options.max_rows, options.chunk);
  if (!options.runs || best.flat || shape.stride_h != 1 || shape.stride_w != 1) {
    return best;
  }
  for (int32_t rows = options.max_rows; rows >= options.max_rows / 2; --rows) {
    const Tiling runs = make_runs(shape, options.lanes, rows);
    if (int64_t{options.chunk} * runs.channel_vectors <= kMaxOffset &&
        cost_of(runs, options) < cost_of(best, options)) {
      best = runs;
    }
  }
  return best;
}

}  // namespace sparse
}  // namespace yhw
