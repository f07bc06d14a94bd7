// SPDX-License-Identifier: Apache-2.0
// A feature map in the engine's memory: channel-innermost (H, W, C), every code an int16.
#ifndef YHW_ENGINE_VIEW_H_
#define YHW_ENGINE_VIEW_H_

#include <cstdint>

namespace yhw {

// Codes of at most 16 signed or 15 unsigned bits, so every one fits an int16.
using Code = int16_t;

// A map, or some channels of a wider one: a concat's inputs and a slice are views into another buffer.
struct View {
  Code* data = nullptr;  // code of channel 0 at (0, 0)
  int c = 0;
  int h = 0;
  int w = 0;
  int stride = 0;  // codes from one pixel to the next, at least c

  Code* row(int y) const { return data + static_cast<int64_t>(y) * w * stride; }
};

}  // namespace yhw

#endif  // YHW_ENGINE_VIEW_H_
