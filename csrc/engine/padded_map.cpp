// SPDX-License-Identifier: Apache-2.0
#include "padded_map.h"

#include <algorithm>
#include <cstring>

namespace yhw {
namespace {

// Rows per job of a loop: copying is over in microseconds.
constexpr int64_t kJobBytes = 64 << 10;

}  // namespace

PaddedMap::PaddedMap(const Window& window, const View& in, const View& out, bool many_reads)
    : in_(in), window_(window), view_(in), pad_y_(window.pad_y), pad_x_(window.pad_x), copies_(false) {
  const int h = window.span_y(out.h), w = window.span_x(out.w);
  const bool inside = pad_y_ == 0 && pad_x_ == 0 && h <= in.h && w <= in.w;
  if (inside || !many_reads) {
    return;
  }
  copies_ = true;
  window_.pad_y = window_.pad_x = 0;
  view_.data = nullptr;
  view_.h = h;
  view_.w = w;
  view_.stride = in.c * in.storage.bytes < kStepBytes ? in.stride : in.c;
}

size_t PaddedMap::scratch() const {
  return copies_ ? static_cast<size_t>(view_.pixels() * view_.pixel_bytes()) + kSlackBytes : 0;
}

void PaddedMap::fill(const RunContext& context) const {
  if (!copies_) {
    return;
  }
  const int64_t bytes = view_.h * view_.row_bytes();
  const int jobs = context.pool.size() == 1 ? 1 : static_cast<int>(std::min<int64_t>(view_.h, bytes / kJobBytes + 1));
  context.pool.parallel_for(jobs, [&](int, int job) {
    for (int y = view_.h * job / jobs; y < view_.h * (job + 1) / jobs; ++y) {
      fill_row(y, context.shared_scratch + y * view_.row_bytes());
    }
  });
}

void PaddedMap::fill_row(int y, uint8_t* to) const {
  const int in_y = y - pad_y_, zero = in_.storage.zero;  // a code of two bytes has the zero 0
  if (in_y < 0 || in_y >= in_.h) {
    std::memset(to, zero, static_cast<size_t>(view_.row_bytes()));
    return;
  }
  const int left = std::min(pad_x_, view_.w), inner = std::min(in_.w, view_.w - left);
  const int64_t pixel = view_.pixel_bytes();
  std::memset(to, zero, static_cast<size_t>(left * pixel));
  to += left * pixel;
  if (view_.stride == in_.stride) {
    std::memcpy(to, in_.at(in_y, 0), static_cast<size_t>(inner * pixel));
  } else {
    for (int x = 0; x < inner; ++x) {
      std::memcpy(to + x * pixel, in_.at(in_y, x), static_cast<size_t>(in_.c * in_.storage.bytes));
    }
  }
  std::memset(to + inner * pixel, zero, static_cast<size_t>((view_.w - left - inner) * pixel));
}

}  // namespace yhw
