// SPDX-License-Identifier: Apache-2.0
#include "padded_input.h"

#include <algorithm>
#include <cstring>

#include "kernels.h"

namespace yhw {

PaddedInput::PaddedInput(const Window& window, const View& in, const View& out)
    : window_(window),
      in_(in),
      rows_(std::max(window.span_y(out.h), in.h + window.pad_y)),
      columns_(std::max(window.span_x(out.w), in.w + window.pad_x)),
      stride_((in.c + 1) / 2 * 2),
      needed_(rows_ != in.h || columns_ != in.w) {}

size_t PaddedInput::codes() const {
  return needed_ ? static_cast<size_t>(rows_) * static_cast<size_t>(columns_) * static_cast<size_t>(stride_) + kLanes
                 : 0;
}

View PaddedInput::prepare(std::vector<Code>& buffer, ThreadPool& pool) const {
  if (!needed_) {
    return in_;
  }
  const View padded{buffer.data(), in_.c, rows_, columns_, stride_};
  pool.parallel_for(rows_, [&](int, int begin, int end) {
    for (int y = begin; y < end; ++y) {
      fill_row(padded, y);
    }
  });
  return padded;
}

void PaddedInput::fill_row(const View& padded, int y) const {
  Code* row = padded.row(y);
  std::memset(row, 0, sizeof(Code) * static_cast<size_t>(padded.w) * static_cast<size_t>(padded.stride));
  const int source = y - window_.pad_y;
  if (source < 0 || source >= in_.h) {
    return;
  }
  const Code* from = in_.row(source);
  Code* to = row + static_cast<int64_t>(window_.pad_x) * padded.stride;
  for (int x = 0; x < in_.w; ++x) {
    std::memcpy(to, from, sizeof(Code) * static_cast<size_t>(in_.c));
    from += in_.stride;
    to += padded.stride;
  }
}

}  // namespace yhw
