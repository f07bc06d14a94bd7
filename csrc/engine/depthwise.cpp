// SPDX-License-Identifier: Apache-2.0
// Depthwise convolution: every channel on its own, kLanes at a time.
#include <algorithm>

#include "op.h"
#include "window_walk.h"

namespace yhw {
namespace {

constexpr int kJobsPerThread = 4;
constexpr int kTilePixels = 8;

class DepthwiseOp final : public Op {
 public:
  DepthwiseOp(const ConvParams& conv, const Requantiser& requant, View in, View out, const Kernels& kernels)
      : in_(in),
        out_(out),
        blocks_((in.c + kLanes - 1) / kLanes),
        runs_{conv.window.size_y, conv.window.size_x, (in.c * in.storage.bytes + kLanes * 2) / kStepBytes, false},
        walk_(conv.window, runs_, in, out.w),
        epilogue_(make_epilogue(requant, 0, in.c, out.storage)) {
    const int lanes = blocks_ * kLanes, taps = conv.window.taps();
    weights_.resize(static_cast<size_t>(taps) * static_cast<size_t>(lanes));
    bias_.resize(static_cast<size_t>(lanes));
    for (int c = 0; c < in.c; ++c) {
      int64_t bias = conv.bias[static_cast<size_t>(c)];
      for (int t = 0; t < taps; ++t) {
        const int16_t w = conv.weight[static_cast<size_t>(c * taps + t)];
        weights_[static_cast<size_t>(t * lanes + c)] = w;
        bias -= in.storage.zero * w;
      }
      bias_[static_cast<size_t>(c)] = static_cast<int32_t>(bias);
    }
    if (kernels.interleaves && in.storage.bytes == 1 && conv.fits_bytes() && taps <= kMaxQuadTaps) {
      pack_quads(lanes, taps);
    }
    packed_ = {conv.window, lanes, weights_.data(), quads_.empty() ? nullptr : quads_.data(), bias_.data()};
  }

  ScratchNeed scratch() const override { return {walk_.scratch() + kMaxTileLanes * sizeof(int32_t), 0}; }
  size_t weight_bytes() const override {
    return weights_.size() * sizeof(int16_t) + quads_.size() + bias_.size() * sizeof(int32_t);
  }

  void run(const RunContext& context) const override {
    const int64_t tiles = (out_.pixels() + kTilePixels - 1) / kTilePixels;
    const int64_t jobs = context.pool.size() == 1 ? 1 : std::min<int64_t>(tiles, kJobsPerThread * context.pool.size());
    context.pool.parallel_for(static_cast<int>(jobs), [&](int worker, int job) {
      const int64_t begin = tiles * job / jobs * kTilePixels, end = tiles * (job + 1) / jobs * kTilePixels;
      run_pixels(context.kernels, begin, std::min(end, out_.pixels()), context.scratch_of(worker));
    });
  }

 private:
  void pack_quads(int lanes, int taps) {
    const int quads = (taps + 3) / 4;
    quads_.resize(static_cast<size_t>(lanes) * static_cast<size_t>(quads) * 4);
    for (int t = 0; t < taps; ++t) {
      for (int c = 0; c < lanes; ++c) {
        const int step = c / kLanes * quads + t / 4;
        quads_[static_cast<size_t>((step * kLanes + c % kLanes) * 4 + t % 4)] =
            static_cast<uint8_t>(weights_[static_cast<size_t>(t * lanes + c)]);
      }
    }
    weights_.clear();
    weights_.shrink_to_fit();
  }

  void run_pixels(const Kernels& kernels, int64_t begin, int64_t end, uint8_t* scratch) const {
    auto* acc = reinterpret_cast<int32_t*>(scratch);
    uint8_t* patches = scratch + kMaxTileLanes * sizeof(int32_t);
    TileSource source;
    for (int64_t at = begin; at < end; at += kTilePixels) {
      const int pixels = static_cast<int>(std::min<int64_t>(kTilePixels, end - at));
      walk_.locate(at, pixels, 0, patches, source);
      for (int block = 0; block < blocks_; block += kMaxBlocks) {
        const int blocks = std::min(kMaxBlocks, blocks_ - block), first = block * kLanes;
        kernels.depthwise_tile(packed_, source, pixels, first, blocks, in_.storage, acc);
        kernels.finish(epilogue_, acc, first, blocks, pixels, out_.pixel(at) + first * out_.storage.bytes,
                       out_.pixel_bytes());
      }
    }
  }

  View in_, out_;
  int blocks_;
  WindowRuns runs_;
  WindowWalk walk_;
  Epilogue epilogue_;
  std::vector<int16_t> weights_;
  std::vector<uint8_t> quads_;
  std::vector<int32_t> bias_;
  PackedDepthwise packed_;
};

}  // namespace

std::unique_ptr<Op> make_depthwise(const ConvParams& conv, const Requantiser& requant, View in, View out,
                                   const Kernels& kernels) {
  return std::make_unique<DepthwiseOp>(conv, requant, in, out, kernels);
}

}  // namespace yhw
