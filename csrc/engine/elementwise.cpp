// SPDX-License-Identifier: Apache-2.0
// Operations whose accumulator is a simple function of one pixel (add, mul) or of a whole map (average).
#include <algorithm>
#include <utility>

#include "op.h"

namespace yhw {
namespace {

// Accumulators that are in the cache between the kernel that makes them and the one that turns them into codes.
constexpr int kTileLanes = 4096;

// Tiles of neighbouring pixels with all their channels: accumulators in 32 bits, or 64 where 32 may not be enough.
class TileOp : public Op {
 public:
  TileOp(const Requantiser& requant, View out)
      : out_(out),
        wide_(requant.acc_bits > 32),
        blocks_((out.c + kLanes - 1) / kLanes),
        tile_(std::max(1, kTileLanes / (blocks_ * kLanes))),
        epilogue_(make_epilogue(requant, 0, out.c, out.storage)) {}

  ScratchNeed scratch() const override {
    return {static_cast<size_t>(tile_ + kPackedPixels) * static_cast<size_t>(blocks_) * kLanes * sizeof(int64_t), 0};
  }

  void run(const RunContext& context) const override {
    const auto tiles = static_cast<int>((out_.pixels() + tile_ - 1) / tile_);
    context.pool.parallel_for(tiles, [&](int worker, int index) {
      const int64_t first = static_cast<int64_t>(index) * tile_;
      const int pixels = static_cast<int>(std::min<int64_t>(tile_, out_.pixels() - first));
      uint8_t* scratch = context.scratch_of(worker);
      if (wide_) {
        auto* acc = reinterpret_cast<int64_t*>(scratch);
        for (int p = 0; p < pixels; ++p) {
          for (int c = 0; c < out_.c; ++c) {
            acc[(p * blocks_) * kLanes + c] = accumulator(first + p, c);
          }
        }
        context.kernels.finish_wide(epilogue_, acc, 0, blocks_, pixels, out_.pixel(first), out_.pixel_bytes());
      } else {
        auto* acc = reinterpret_cast<int32_t*>(scratch);
        accumulate(context.kernels, first, pixels, acc);
        context.kernels.finish(epilogue_, acc, 0, blocks_, pixels, out_.pixel(first), out_.pixel_bytes());
      }
    });
  }

 protected:
  virtual void accumulate(const Kernels& kernels, int64_t first, int pixels, int32_t* acc) const = 0;
  // One accumulator, in 64 bits.
  virtual int64_t accumulator(int64_t pixel, int c) const = 0;

  static PixelRun run_of(const View& view, int64_t first, int pixels) {
    return {view.pixel(first), view.pixel_bytes(), pixels, view.c, view.storage};
  }

  const View out_;

 private:
  const bool wide_;
  const int blocks_, tile_;
  const Epilogue epilogue_;
};

class AddOp final : public TileOp {
 public:
  AddOp(std::vector<View> inputs, std::vector<int> left_shifts, const Requantiser& requant, View out)
      : TileOp(requant, out), inputs_(std::move(inputs)), left_shifts_(std::move(left_shifts)) {}

 private:
  void accumulate(const Kernels& kernels, int64_t first, int pixels, int32_t* acc) const override {
    for (size_t i = 0; i < inputs_.size(); ++i) {
      kernels.add_tile(run_of(inputs_[i], first, pixels), left_shifts_[i], i == 0, acc);
    }
  }
  int64_t accumulator(int64_t pixel, int c) const override {
    int64_t sum = 0;
    for (size_t i = 0; i < inputs_.size(); ++i) {
      sum += shift_left(static_cast<int64_t>(code_at(inputs_[i], inputs_[i].pixel(pixel), c)), left_shifts_[i]);
    }
    return sum;
  }

  std::vector<View> inputs_;
  std::vector<int> left_shifts_;
};

class MulOp final : public TileOp {
 public:
  MulOp(const Requantiser& requant, View map, View factors, View out)
      : TileOp(requant, out), map_(map), factors_(factors) {}

 private:
  bool shared() const { return factors_.pixels() == 1; }
  void accumulate(const Kernels& kernels, int64_t first, int pixels, int32_t* acc) const override {
    PixelRun factors = run_of(factors_, shared() ? 0 : first, pixels);
    factors.spacing = shared() ? 0 : factors.spacing;
    kernels.mul_tile(run_of(map_, first, pixels), factors, acc);
  }
  int64_t accumulator(int64_t pixel, int c) const override {
    const Code factor = code_at(factors_, factors_.pixel(shared() ? 0 : pixel), factors_.c == 1 ? 0 : c);
    return static_cast<int64_t>(code_at(map_, map_.pixel(pixel), c)) * factor;
  }

  View map_, factors_;
};

class AvgPoolOp final : public TileOp {
 public:
  AvgPoolOp(const Requantiser& requant, View in, View out) : TileOp(requant, out), in_(in) {}

 private:
  void accumulate(const Kernels& kernels, int64_t, int, int32_t* acc) const override {
    for (int64_t p = 0; p < in_.pixels(); ++p) {
      kernels.add_tile(run_of(in_, p, 1), 0, p == 0, acc);
    }
  }
  int64_t accumulator(int64_t, int c) const override {
    int64_t sum = 0;
    for (int64_t p = 0; p < in_.pixels(); ++p) {
      sum += code_at(in_, in_.pixel(p), c);
    }
    return sum;
  }

  View in_;
};

// The same codes as pixels of `channels` channels.
View flattened(View view, int channels) {
  view.w = static_cast<int>(view.pixels() * view.c / channels);
  view.h = 1;
  view.c = view.stride = channels;
  return view;
}

}  // namespace

std::unique_ptr<Op> make_add(std::vector<View> inputs, const std::vector<int>& left_shifts, Requantiser requant,
                             View out) {
  // Where no channel differs from another and nothing lies between the pixels, a map is one long row of codes.
  bool flat = out.stride == out.c && std::all_of(requant.shift.begin(), requant.shift.end(),
                                                 [&](int32_t shift) { return shift == requant.shift[0]; });
  for (const View& in : inputs) {
    flat = flat && in.stride == in.c;
  }
  const int64_t codes = out.pixels() * out.c;
  for (int channels = kTileLanes; flat && channels > out.c; channels /= 2) {
    if (codes % channels == 0) {
      for (View& in : inputs) {
        in = flattened(in, channels);
      }
      out = flattened(out, channels);
      requant.shift.assign(static_cast<size_t>(channels), requant.shift[0]);
    }
  }
  return std::make_unique<AddOp>(inputs, left_shifts, requant, out);
}

std::unique_ptr<Op> make_mul(const Requantiser& requant, View map, View factors, View out) {
  return std::make_unique<MulOp>(requant, map, factors, out);
}

std::unique_ptr<Op> make_avgpool(const Requantiser& requant, View in, View out) {
  return std::make_unique<AvgPoolOp>(requant, in, out);
}

}  // namespace yhw
