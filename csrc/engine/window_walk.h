// SPDX-License-Identifier: Apache-2.0
#ifndef YHW_ENGINE_WINDOW_WALK_H_
#define YHW_ENGINE_WINDOW_WALK_H_

#include "kernels.h"

namespace yhw {

// The runs of consecutive input bytes that a window consists of: one per tap, or one per row of taps where the taps of
// a row touch and reading what lies between their channels costs no step more.
struct WindowRuns {
  int rows = 0, columns = 0, steps = 0;
  bool merged = false;  // columns is 1, a run has all taps of a row

  int64_t run_bytes() const { return static_cast<int64_t>(steps) * kStepBytes; }
  int64_t patch_bytes() const { return rows * columns * run_bytes(); }
};

// `in` has the channels of one group.
WindowRuns make_runs(const Window& window, const View& in);

// Finds the windows of output pixels in the input map. Windows that reach over the edge are copied to a patch with the
// stored zero around them, so a kernel sees no edge.
class WindowWalk {
 public:
  WindowWalk(const Window& window, const WindowRuns& runs, View in, int out_w)
      : window_(window), runs_(runs), in_(in), out_w_(out_w) {}

  // Bytes of patches for a tile.
  size_t scratch() const { return static_cast<size_t>(runs_.patch_bytes()) * kMaxTilePixels + 64; }

  // The same over a map at another address.
  WindowWalk over(uint8_t* data) const {
    WindowWalk walk = *this;
    walk.in_.data = data;
    return walk;
  }

  // The windows of `pixels` output pixels from (y, x) on, row by row, of the group whose channels begin `offset` bytes
  // into a pixel.
  void locate(int y, int x, int pixels, int64_t offset, uint8_t* patches, TileSource& source) const;

 private:
  bool inside(int y, int x) const {
    return y >= 0 && x >= 0 && y + window_.span_y(1) <= in_.h && x + window_.span_x(1) <= in_.w;
  }
  void copy_patch(int y, int x, int64_t offset, uint8_t* patch) const;

  Window window_;
  WindowRuns runs_;
  View in_;
  int out_w_;
};

}  // namespace yhw

#endif  // YHW_ENGINE_WINDOW_WALK_H_
