// SPDX-License-Identifier: Apache-2.0
// Between codes [C, H, W] outside of the engine and its maps [H, W, C], in squares of 16 codes. Included by
// kernels_impl.h.
#ifndef YHW_ENGINE_TRANSPOSE_IMPL_H_
#define YHW_ENGINE_TRANSPOSE_IMPL_H_

#include <cstring>

#include "kernels.h"
#include "vec.h"

namespace yhw {
namespace {

constexpr int kSquare = 16;
using SquareRow = uint8_t __attribute__((vector_size(kSquare)));

// square[i][j] <-> square[j][i]: four rounds that interleave rows of the two halves.
YHW_INLINE void transpose_square(SquareRow (&square)[kSquare]) {
  for (int round = 0; round < 4; ++round) {
    SquareRow next[kSquare];
    YHW_UNROLL
    for (int i = 0; i < kSquare / 2; ++i) {
      const SquareRow a = square[i], b = square[i + kSquare / 2];
      next[2 * i] = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      next[2 * i + 1] = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    }
    std::memcpy(square, next, sizeof(next));
  }
}

YHW_INLINE int at_most_square(int64_t count) { return count < kSquare ? static_cast<int>(count) : kSquare; }

// `count` codes, stored: code + zero.
template <typename T>
YHW_INLINE SquareRow stored_row(const T* codes, int count, int zero) {
  T row[kSquare] = {};
  count == kSquare ? std::memcpy(row, codes, sizeof(row))
                   : std::memcpy(row, codes, static_cast<size_t>(count) * sizeof(T));
  uint8_t stored[kSquare];
  for (int i = 0; i < kSquare; ++i) {
    stored[i] = static_cast<uint8_t>(row[i] + zero);
  }
  SquareRow result;
  std::memcpy(&result, stored, sizeof(result));
  return result;
}

// Codes [C, H, W] into a map of bytes.
template <typename T>
void load_squares(const T* image, const View& map) {
  const int64_t plane = map.pixels();
  for (int64_t p = 0; p < plane; p += kSquare) {
    const int pixels = at_most_square(plane - p);
    for (int c = 0; c < map.c; c += kSquare) {
      const int channels = at_most_square(map.c - c);
      SquareRow square[kSquare] = {};
      for (int i = 0; i < channels; ++i) {
        square[i] = stored_row(image + (c + i) * plane + p, pixels, map.storage.zero);
      }
      transpose_square(square);
      for (int i = 0; i < pixels; ++i) {
        std::memcpy(map.pixel(p + i) + c, &square[i], static_cast<size_t>(channels));
      }
    }
  }
}

// The codes of a map of bytes, [C, H, W].
inline void read_squares(const View& map, Code* out) {
  const int64_t plane = map.pixels();
  for (int64_t p = 0; p < plane; p += kSquare) {
    const int pixels = at_most_square(plane - p);
    for (int c = 0; c < map.c; c += kSquare) {
      const int channels = at_most_square(map.c - c);
      SquareRow square[kSquare] = {};
      for (int i = 0; i < pixels; ++i) {
        std::memcpy(&square[i], map.pixel(p + i) + c, kSquare);  // up to a vector beyond the channels
      }
      transpose_square(square);
      for (int i = 0; i < channels; ++i) {
        Code codes[kSquare];
        for (int j = 0; j < kSquare; ++j) {
          codes[j] = static_cast<Code>(square[i][j] - map.storage.zero);
        }
        Code* to = out + (c + i) * plane + p;
        pixels == kSquare ? std::memcpy(to, codes, sizeof(codes))
                          : std::memcpy(to, codes, static_cast<size_t>(pixels) * sizeof(Code));
      }
    }
  }
}

// The codes of a map, [C, H, W].
template <class Isa>
void read_map(const View& map, Code* out) {
  if (map.storage.bytes == 1) {
    return read_squares(map, out);
  }
  const int64_t plane = map.pixels();
  for (int64_t p = 0; p < plane; ++p) {
    for (int c = 0; c < map.c; ++c) {
      out[c * plane + p] = code_at(map, map.pixel(p), c);
    }
  }
}

}  // namespace
}  // namespace yhw

#endif  // YHW_ENGINE_TRANSPOSE_IMPL_H_
