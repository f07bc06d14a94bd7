// SPDX-License-Identifier: Apache-2.0
#ifndef YHW_ENGINE_WINDOW_H_
#define YHW_ENGINE_WINDOW_H_

namespace yhw {

// Sliding window, vertical (y) and horizontal (x); the twin of yolo_hw/geometry.py.
struct Window {
  int size_y = 1, size_x = 1;
  int stride_y = 1, stride_x = 1;
  int pad_y = 0, pad_x = 0;  // rows above and columns left of the map
  int dilation_y = 1, dilation_x = 1;

  int taps() const { return size_y * size_x; }
  // Rows (columns) that `outputs` neighbouring windows touch.
  int span_y(int outputs) const { return (outputs - 1) * stride_y + dilation_y * (size_y - 1) + 1; }
  int span_x(int outputs) const { return (outputs - 1) * stride_x + dilation_x * (size_x - 1) + 1; }
};

}  // namespace yhw

#endif  // YHW_ENGINE_WINDOW_H_
