// SPDX-License-Identifier: Apache-2.0
// A feature map in the engine's memory: channel-innermost (H, W, C).
#ifndef YHW_ENGINE_VIEW_H_
#define YHW_ENGINE_VIEW_H_

#include <cstdint>
#include <cstring>

namespace yhw {

// Codes outside of the engine: at most 16 signed or 15 unsigned bits, so every one fits an int16.
using Code = int16_t;

// How the codes of a map are stored: `code + zero` in an unsigned byte, or the code itself in an int16.
//
// The dot products of the instruction sets take unsigned by signed bytes, so signed activations are stored with 128
// added; a convolution takes 128 times the sum of its weights out of the bias.
struct Storage {
  int bytes = 2;
  int zero = 0;  // what code 0 is stored as

  bool operator==(const Storage& other) const { return bytes == other.bytes && zero == other.zero; }
};

// Storage of codes with `bits` bits.
inline Storage storage_of(int bits, bool is_signed) {
  return bits > 8 ? Storage{2, 0} : Storage{1, is_signed ? 128 : 0};
}

// A map, or some channels of a wider one: a concat's inputs and a slice are views into another buffer.
struct View {
  uint8_t* data = nullptr;  // code of channel 0 at (0, 0)
  int c = 0;
  int h = 0;
  int w = 0;
  int stride = 0;  // codes from one pixel to the next, at least c
  Storage storage;

  // The channels of the first of `groups` groups.
  View of_group(int groups) const {
    View group = *this;
    group.c /= groups;
    return group;
  }
  int64_t pixel_bytes() const { return static_cast<int64_t>(stride) * storage.bytes; }
  int64_t row_bytes() const { return w * pixel_bytes(); }
  int64_t pixels() const { return static_cast<int64_t>(h) * w; }
  // Pixels are numbered row by row; all are `pixel_bytes` apart.
  uint8_t* pixel(int64_t index) const { return data + index * pixel_bytes(); }
  uint8_t* at(int y, int x) const { return pixel(static_cast<int64_t>(y) * w + x); }
};

// Code of channel `c` of a pixel.
inline Code code_at(const View& view, const uint8_t* pixel, int c) {
  if (view.storage.bytes == 1) {
    return static_cast<Code>(pixel[c] - view.storage.zero);
  }
  Code code;
  std::memcpy(&code, pixel + 2 * c, sizeof(code));
  return code;
}

// Stores the code of channel `c` of a pixel.
inline void set_code(const View& view, uint8_t* pixel, int c, Code code) {
  if (view.storage.bytes == 1) {
    pixel[c] = static_cast<uint8_t>(code + view.storage.zero);
  } else {
    std::memcpy(pixel + 2 * c, &code, sizeof(code));
  }
}

}  // namespace yhw

#endif  // YHW_ENGINE_VIEW_H_
