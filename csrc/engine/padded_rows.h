// SPDX-License-Identifier: Apache-2.0
#ifndef YHW_ENGINE_PADDED_ROWS_H_
#define YHW_ENGINE_PADDED_ROWS_H_

#include <cstdint>

#include "view.h"
#include "window.h"

namespace yhw {

// The input rows of a row of windows, with the stored zero around them, for some neighbouring channels. Rows are copied
// to scratch memory once while output rows are walked downwards, so a kernel sees no edge and packed channels.
class PaddedRows {
 public:
  // `pixel_bytes` is the distance of two pixels in scratch memory.
  PaddedRows(const Window& window, const View& in, int out_w, int64_t pixel_bytes);

  int64_t pixel_bytes() const { return pixel_bytes_; }
  size_t scratch() const;

  // Prepares scratch memory for channels that begin `offset` bytes into a pixel and have `bytes` bytes.
  void begin(int64_t offset, int64_t bytes, uint8_t* scratch) const;
  // The leftmost window's rows of taps of output row y: [size_y], repeated up to a multiple of 4.
  const uint8_t* const* rows_of(int y, uint8_t* scratch) const;

 private:
  struct State;

  int slots() const { return window_.span_y(1); }
  int pointers() const { return (window_.size_y + 3) / 4 * 4; }
  State& state(uint8_t* scratch) const;
  const uint8_t* row(int in_y, State& state) const;
  void copy_row(int in_y, const State& state, uint8_t* to) const;

  Window window_;
  View in_;
  int columns_;  // pixels of a padded row
  int64_t pixel_bytes_, row_bytes_;
};

}  // namespace yhw

#endif  // YHW_ENGINE_PADDED_ROWS_H_
