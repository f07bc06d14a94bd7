// SPDX-License-Identifier: Apache-2.0
// How a convolution is cut for blocks of many output channels, and where a region's input lies.
//
// The lanes of a vector are output channels; a pixel's input is broadcast to all of them. So no lane is lost at the
// ends of rows, and one copy of the input serves all taps. A region is a rectangle of one image's outputs. The buffer
// has its input by channel, row, and, of a horizontal stride, phase: then neighbouring outputs read neighbouring
// elements of every tap. A map whose pixels are the output's is not copied.
#ifndef YHW_SPARSE_REGIONS_H_
#define YHW_SPARSE_REGIONS_H_

#include <cstdint>
#include <vector>

#include "tiling.h"

namespace yhw {
namespace sparse {

// Output channels of the blocks that are cut this way: a multiple of it.
constexpr int32_t kRegionRows = 16;

struct Regions {
  ConvShape shape;        // of a map without kernel, stride and padding: all its pixels in one row
  bool in_place;          // the input is read where it is: such a map, if its places fit their type
  int64_t rows, columns;  // outputs of a region; the last ones may be smaller
  int64_t regions_y, regions_x;
  int64_t input_rows;                  // from the first to the last that a region reads
  int64_t phases, phase_pitch;         // columns of one phase, in elements
  std::vector<uint32_t> tap_elements;  // [kernel_h * kernel_w]: place of the tap in its channel, in elements

  int64_t count() const { return shape.batch * regions_y * regions_x; }
  int64_t pixels() const { return rows * columns; }
  int64_t pitch() const { return phases * phase_pitch; }
  // From channel to channel of the input.
  int64_t channel_elements() const { return in_place ? shape.width : input_rows * pitch(); }
};

// Regions whose rows in the buffer are a multiple of `lanes` elements. `chunk`: channels whose places are counted
// together.
Regions make_regions(const ConvShape& shape, int32_t lanes, int32_t chunk);

}  // namespace sparse
}  // namespace yhw

#endif  // YHW_SPARSE_REGIONS_H_
