// SPDX-License-Identifier: Apache-2.0
#include "regions.h"

#include <algorithm>
#include <limits>

namespace yhw {
namespace sparse {
namespace {

// Large regions copy fewer rows twice and run along longer rows; the sums of 16 channels still fit a first-level cache.
constexpr int64_t kMostPixels = 640;
constexpr int64_t kMostColumns = 208;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Parts of equal size, as far as possible, of at most `most`.
int64_t even_part(int64_t size, int64_t most) { return ceil_div(size, ceil_div(size, std::max<int64_t>(most, 1))); }

}  // namespace

Regions make_regions(const ConvShape& shape, int32_t lanes, int32_t chunk) {
  Regions r{};
  r.shape = shape;
  const bool flat = is_flat(shape);
  if (flat) {
    r.shape.width = shape.height * shape.width;
    r.shape.height = 1;
    r.in_place = chunk * r.shape.width <= std::numeric_limits<uint32_t>::max();
  }
  const ConvShape& s = r.shape;
  if (s.out_width() <= 0 || s.out_height() <= 0) {
    return r;
  }
  r.columns = even_part(s.out_width(), flat ? kMostPixels : kMostColumns);
  r.rows = even_part(s.out_height(), kMostPixels / r.columns);
  r.regions_x = ceil_div(s.out_width(), r.columns);
  r.regions_y = ceil_div(s.out_height(), r.rows);
  r.input_rows = (r.rows - 1) * s.stride_h + (s.kernel_h - 1) * s.dilation_h + 1;
  const int64_t reach = (s.kernel_w - 1) * s.dilation_w;
  r.phases = std::min(s.stride_w, reach + 1);
  r.phase_pitch = ceil_div(r.columns + reach / s.stride_w, lanes) * lanes;
  for (int64_t row = 0; row < s.kernel_h; ++row) {
    for (int64_t column = 0; column < s.kernel_w; ++column) {
      const int64_t right = column * s.dilation_w;
      const int64_t place = row * s.dilation_h * r.pitch() + right % s.stride_w * r.phase_pitch + right / s.stride_w;
      r.tap_elements.push_back(static_cast<uint32_t>(place));
    }
  }
  return r;
}

}  // namespace sparse
}  // namespace yhw
