// SPDX-License-Identifier: Apache-2.0
#include "padded_rows.h"

#include <algorithm>

#include "arena.h"
#include "op.h"

namespace yhw {
namespace {

constexpr int64_t kCopyBytes = 16;

}  // namespace

// What lies at the front of the scratch memory.
struct PaddedRows::State {
  int64_t offset, bytes;  // of the channels, in a pixel of the map
  const uint8_t** rows;   // [pointers]
  int* held;              // [slots]: the input row that a slot has, or -1
  uint8_t* slots;         // [slots] rows
  uint8_t* zeros;         // a row outside of the map
};

PaddedRows::PaddedRows(const Window& window, const View& in, int out_w, int64_t pixel_bytes)
    : window_(window),
      in_(in),
      columns_(std::max(window.span_x(out_w), window.pad_x)),
      pixel_bytes_(pixel_bytes),
      row_bytes_(static_cast<int64_t>(aligned(static_cast<size_t>(columns_ * pixel_bytes)))) {}

size_t PaddedRows::scratch() const {
  return aligned(sizeof(State)) + aligned(static_cast<size_t>(pointers()) * sizeof(uint8_t*)) +
         aligned(static_cast<size_t>(slots()) * sizeof(int)) +
         static_cast<size_t>((slots() + 1) * row_bytes_ + kSlackBytes);
}

PaddedRows::State& PaddedRows::state(uint8_t* scratch) const { return *reinterpret_cast<State*>(scratch); }

void PaddedRows::begin(int64_t offset, int64_t bytes, uint8_t* scratch) const {
  State& s = *new (scratch) State;
  scratch += aligned(sizeof(State));
  s.offset = offset;
  s.bytes = bytes;
  s.rows = reinterpret_cast<const uint8_t**>(scratch);
  scratch += aligned(static_cast<size_t>(pointers()) * sizeof(uint8_t*));
  s.held = reinterpret_cast<int*>(scratch);
  scratch += aligned(static_cast<size_t>(slots()) * sizeof(int));
  std::fill_n(s.held, slots(), -1);
  s.slots = scratch;
  s.zeros = scratch + slots() * row_bytes_;
  // A code of two bytes has the zero 0.
  std::memset(scratch, in_.storage.zero, static_cast<size_t>((slots() + 1) * row_bytes_ + kSlackBytes));
}

const uint8_t* const* PaddedRows::rows_of(int y, uint8_t* scratch) const {
  State& s = state(scratch);
  for (int r = 0; r < pointers(); ++r) {
    const int tap = std::min(r, window_.size_y - 1);
    s.rows[r] = row(y * window_.stride_y - window_.pad_y + tap * window_.dilation_y, s);
  }
  return s.rows;
}

const uint8_t* PaddedRows::row(int in_y, State& s) const {
  if (in_y < 0 || in_y >= in_.h) {
    return s.zeros;
  }
  const int slot = in_y % slots();
  uint8_t* to = s.slots + slot * row_bytes_;
  if (s.held[slot] != in_y) {
    s.held[slot] = in_y;
    copy_row(in_y, s, to + window_.pad_x * pixel_bytes_);
  }
  return to;
}

void PaddedRows::copy_row(int in_y, const State& s, uint8_t* to) const {
  const int pixels = std::min(in_.w, columns_ - window_.pad_x);
  const uint8_t* from = in_.at(in_y, 0) + s.offset;
  if (pixel_bytes_ == in_.pixel_bytes() && pixel_bytes_ == s.bytes) {
    std::memcpy(to, from, static_cast<size_t>(pixels * pixel_bytes_));
  } else if (pixel_bytes_ % kCopyBytes == 0) {
    // Whole vectors: what is beyond the channels belongs to the next pixel or the slack, and meets zero weights.
    const int64_t bytes = (s.bytes + kCopyBytes - 1) / kCopyBytes * kCopyBytes;
    for (int x = 0; x < pixels; ++x, from += in_.pixel_bytes(), to += pixel_bytes_) {
      for (int64_t i = 0; i < bytes; i += kCopyBytes) {
        std::memcpy(to + i, from + i, kCopyBytes);
      }
    }
  } else {
    for (int x = 0; x < pixels; ++x) {
      std::memcpy(to + x * pixel_bytes_, from + x * in_.pixel_bytes(), static_cast<size_t>(s.bytes));
    }
  }
}

}  // namespace yhw
