// SPDX-License-Identifier: Apache-2.0
// Convolution with accumulators of more than 32 bits: 64-bit sums over a window that is copied first. Exact, not fast:
// 16-bit weights on 16-bit activations need it only for large windows.
#include <algorithm>
#include <cstring>

#include "op.h"

namespace yhw {
namespace {

class WideConvOp final : public Op {
 public:
  WideConvOp(const ConvParams& conv, const Requantiser& requant, View in, View out)
      : conv_(conv), in_(in), out_(out), epilogue_(make_epilogue(requant, 0, out.c, out.storage)) {}

  ScratchNeed scratch() const override { return {acc_bytes() + static_cast<size_t>(taps() * in_.c) * sizeof(Code), 0}; }
  size_t weight_bytes() const override {
    return conv_.weight.size() * sizeof(int16_t) + conv_.bias.size() * sizeof(int32_t);
  }

  void run(const RunContext& context) const override {
    context.pool.parallel_for(out_.h, [&](int worker, int y) {
      uint8_t* scratch = context.scratch_of(worker);
      auto* acc = reinterpret_cast<int64_t*>(scratch);
      auto* window = reinterpret_cast<Code*>(scratch + acc_bytes());
      for (int x = 0; x < out_.w; ++x) {
        copy_window(y, x, window);
        for (int k = 0; k < out_.c; ++k) {
          acc[k] = sum(k, window);
        }
        context.kernels.finish_wide(epilogue_, acc, 0, blocks(), 1, out_.at(y, x), out_.pixel_bytes());
      }
    });
  }

 private:
  int taps() const { return conv_.window.taps(); }
  int blocks() const { return (out_.c + kLanes - 1) / kLanes; }
  size_t acc_bytes() const { return static_cast<size_t>(blocks()) * kLanes * sizeof(int64_t); }

  // [C][taps], like a row of weights.
  void copy_window(int y, int x, Code* window) const {
    const Window& w = conv_.window;
    for (int r = 0; r < w.size_y; ++r) {
      for (int s = 0; s < w.size_x; ++s) {
        const int in_y = y * w.stride_y - w.pad_y + r * w.dilation_y,
                  in_x = x * w.stride_x - w.pad_x + s * w.dilation_x;
        const bool inside = in_y >= 0 && in_y < in_.h && in_x >= 0 && in_x < in_.w;
        for (int c = 0; c < in_.c; ++c) {
          window[c * taps() + r * w.size_x + s] = inside ? code_at(in_, in_.at(in_y, in_x), c) : Code{0};
        }
      }
    }
  }

  int64_t sum(int k, const Code* window) const {
    const int row = conv_.depth() * taps(), group = k / (out_.c / conv_.groups);
    const int16_t* weights = conv_.weight.data() + static_cast<int64_t>(k) * row;
    const Code* codes = window + static_cast<int64_t>(group) * row;
    int64_t acc = conv_.bias[static_cast<size_t>(k)];
    for (int i = 0; i < row; ++i) {
      acc += static_cast<int64_t>(weights[i] * codes[i]);
    }
    return acc;
  }

  ConvParams conv_;
  View in_, out_;
  Epilogue epilogue_;
};

}  // namespace

std::unique_ptr<Op> make_wide_conv(const ConvParams& conv, const Requantiser& requant, View in, View out) {
  return std::make_unique<WideConvOp>(conv, requant, in, out);
}

}  // namespace yhw
