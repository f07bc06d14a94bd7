// SPDX-License-Identifier: Apache-2.0
#include "window_walk.h"

#include <cstring>

namespace yhw {

WindowRuns make_runs(const Window& window, const View& in) {
  const auto steps_of = [](int64_t bytes) { return static_cast<int>((bytes + kStepBytes - 1) / kStepBytes); };
  const int64_t tap_bytes = static_cast<int64_t>(in.c) * in.storage.bytes;
  const WindowRuns apart{window.size_y, window.size_x, steps_of(tap_bytes), false};
  const WindowRuns merged{window.size_y, 1, steps_of((window.size_x - 1) * in.pixel_bytes() + tap_bytes), true};
  return window.dilation_x == 1 && merged.steps <= apart.columns * apart.steps ? merged : apart;
}

void WindowWalk::locate(int y, int x, int pixels, int64_t offset, uint8_t* patches, TileSource& source) const {
  const int64_t pitch_y = window_.dilation_y * in_.row_bytes(), pitch_x = window_.dilation_x * in_.pixel_bytes();
  int in_y = y * window_.stride_y - window_.pad_y, in_x = x * window_.stride_x - window_.pad_x;
  source.uniform = x + pixels <= out_w_ && inside(in_y, in_x) && inside(in_y, in_x + (pixels - 1) * window_.stride_x);
  if (source.uniform) {
    source.origin[0] = in_.at(in_y, in_x) + offset;
    source.pitch_y[0] = pitch_y;
    source.pitch_x[0] = pitch_x;
    source.spacing = window_.stride_x * in_.pixel_bytes();
    return;
  }
  for (int p = 0; p < pixels; ++p) {
    if (inside(in_y, in_x)) {
      source.origin[p] = in_.at(in_y, in_x) + offset;
      source.pitch_y[p] = pitch_y;
      source.pitch_x[p] = pitch_x;
    } else {
      uint8_t* patch = patches + p * runs_.patch_bytes();
      copy_patch(in_y, in_x, offset, patch);
      source.origin[p] = patch;
      source.pitch_y[p] = runs_.columns * runs_.run_bytes();
      source.pitch_x[p] = runs_.run_bytes();
    }
    in_x += window_.stride_x;
    if (++x == out_w_) {
      x = 0;
      in_x = -window_.pad_x;
      in_y += window_.stride_y;
    }
  }
}

void WindowWalk::copy_patch(int y, int x, int64_t offset, uint8_t* patch) const {
  const auto tap_bytes = static_cast<size_t>(in_.c) * static_cast<size_t>(in_.storage.bytes);
  const int64_t tap_pitch = runs_.merged ? in_.pixel_bytes() : runs_.run_bytes();
  for (int r = 0; r < window_.size_y; ++r) {
    uint8_t* to = patch + r * runs_.columns * runs_.run_bytes();
    const int in_y = y + r * window_.dilation_y;
    for (int s = 0; s < window_.size_x; ++s) {
      const int in_x = x + s * window_.dilation_x;
      if (in_y >= 0 && in_y < in_.h && in_x >= 0 && in_x < in_.w) {
        std::memcpy(to, in_.at(in_y, in_x) + offset, tap_bytes);
      } else {
        std::memset(to, in_.storage.zero, tap_bytes);  // a code of two bytes has the zero 0
      }
      to += tap_pitch;
    }
  }
}

}  // namespace yhw
