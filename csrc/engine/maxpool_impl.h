// SPDX-License-Identifier: Apache-2.0
// A row of a max pool: first the largest of every column over the window's rows, then of neighbouring columns. Included
// by kernels_impl.h.
#ifndef YHW_ENGINE_MAXPOOL_IMPL_H_
#define YHW_ENGINE_MAXPOOL_IMPL_H_

#include "kernels.h"
#include "vec.h"

namespace yhw {
namespace {

template <typename Stored>
struct Vectors;
template <>
struct Vectors<uint8_t> {
  using Line = uint8_t __attribute__((vector_size(64)));
  using Block = uint8_t __attribute__((vector_size(kLanes)));
};
template <>
struct Vectors<int16_t> {
  using Line = int16_t __attribute__((vector_size(64)));
  using Block = int16_t __attribute__((vector_size(2 * kLanes)));
};

// to = max(a, b), elementwise, for a whole vector.
template <typename Vector, typename Stored>
YHW_INLINE void max_vector(const Stored* a, const Stored* b, Stored* to) {
  Vector x, y;
  std::memcpy(&x, a, sizeof(x));
  std::memcpy(&y, b, sizeof(y));
  x = x < y ? y : x;
  std::memcpy(to, &x, sizeof(x));
}

// to[i] = max(a[i], b[i]): whole vectors, then one by one.
template <typename Vector, typename Stored>
YHW_INLINE void max_codes(const Stored* a, const Stored* b, int64_t count, Stored* to) {
  constexpr auto kCodes = static_cast<int64_t>(sizeof(Vector) / sizeof(Stored));
  int64_t i = 0;
  for (; i + kCodes <= count; i += kCodes) {
    max_vector<Vector>(a + i, b + i, to + i);
  }
  for (; i < count; ++i) {
    to[i] = a[i] < b[i] ? b[i] : a[i];
  }
}

template <typename Stored>
void maxpool_row_stored(const Window& window, const View& src, int y, const View& dst, Stored* columns) {
  using Line = typename Vectors<Stored>::Line;
  using Block = typename Vectors<Stored>::Block;
  const int top = y * window.stride_y - window.pad_y;
  const int first = top < 0 ? 0 : top;
  const int last = top + window.size_y > src.h ? src.h - 1 : top + window.size_y - 1;
  // The codes between the channels of two pixels of a wider map are compared, too, and not used.
  const int64_t row_codes = static_cast<int64_t>(src.w - 1) * src.stride + src.c;
  const auto* row = reinterpret_cast<const Stored*>(src.at(first, 0));
  max_codes<Line>(row, reinterpret_cast<const Stored*>(src.at(first == last ? first : first + 1, 0)), row_codes,
                  columns);
  for (int r = first + 2; r <= last; ++r) {
    max_codes<Line, Stored>(columns, reinterpret_cast<const Stored*>(src.at(r, 0)), row_codes, columns);
  }
  for (int x = 0; x < dst.w; ++x) {
    const int left = x * window.stride_x - window.pad_x;
    const int begin = left < 0 ? 0 : left;
    const int end = left + window.size_x > src.w ? src.w : left + window.size_x;
    const Stored* column = columns + static_cast<int64_t>(begin) * src.stride;
    auto* out = reinterpret_cast<Stored*>(dst.at(y, x));
    max_codes<Block>(column, end - begin > 1 ? column + src.stride : column, src.c, out);
    for (int s = begin + 2; s < end; ++s) {
      max_codes<Block, Stored>(out, columns + static_cast<int64_t>(s) * src.stride, src.c, out);
    }
  }
}

template <class Isa>
void maxpool_row(const Window& window, const View& src, int y, const View& dst, uint8_t* columns) {
  if (src.storage.bytes == 1) {
    maxpool_row_stored<uint8_t>(window, src, y, dst, columns);
  } else {
    maxpool_row_stored<int16_t>(window, src, y, dst, reinterpret_cast<int16_t*>(columns));
  }
}

}  // namespace
}  // namespace yhw

#endif  // YHW_ENGINE_MAXPOOL_IMPL_H_
