// SPDX-License-Identifier: Apache-2.0
// Convolution of bytes by weights of which most steps are zero: only steps with a weight in them are multiplied. The
// unit is kLanes output channels by kStepBytes input channels of a tap, the 16x4 block.
#include <algorithm>

#include "conv_tail.h"
#include "op.h"
#include "padded_map.h"
#include "weight_step.h"

namespace yhw {
namespace {

// A dense tile shares an input among four blocks of output channels, a sparse one does not. It pays below so many kept
// steps of kDensityUnit.
constexpr int64_t kMaxKeptSteps = 3, kDensityUnit = 4;
// Input of a part, and its most rows: two tiles where a tile takes two rows.
constexpr int64_t kInputBytes = 20 << 10;
constexpr int kMostRows = 4;

// One output channel's weights in steps of kStepBytes input channels of a tap.
struct Steps {
  const ConvParams& conv;

  int per_tap() const { return (conv.depth() + kStepBytes - 1) / kStepBytes; }
  int count() const { return conv.window.taps() * per_tap(); }
  int16_t weight(int k, int step, int i) const {
    const int c = step % per_tap() * kStepBytes + i, tap = step / per_tap(), depth = conv.depth();
    return c < depth ? conv.weight[static_cast<size_t>((int64_t{k} * depth + c) * conv.window.taps() + tap)]
                     : int16_t{0};
  }
  // Whether any of the output channels [first, end) has a weight in it.
  bool kept(int first, int end, int step) const {
    for (int k = first; k < end; ++k) {
      for (int i = 0; i < kStepBytes; ++i) {
        if (weight(k, step, i) != 0) {
          return true;
        }
      }
    }
    return false;
  }
};

class SparseConvOp final : public Op {
 public:
  SparseConvOp(const ConvParams& conv, const Requantiser& requant, const ConvTail& tail, View in, View out,
               const Kernels& kernels)
      : padded_(conv.window, in, tail_input(out, tail), true),
        in_(padded_.view()),
        out_(out),
        window_(padded_.window()),
        width_(tail_input(out, tail).w) {
    const int per_group = conv.channels() / conv.groups;
    for (int g = 0; g < conv.groups; ++g) {
      tails_.emplace_back(requant, tail, g * per_group, per_group, out);
      for (int first = 0; first < per_group; first += kLanes) {
        add_block(conv, {g, first}, std::min(kLanes, per_group - first), WeightStep(kernels.layout, 1));
      }
    }
  }

  ScratchNeed scratch() const override { return {TailWriter::scratch(), padded_.scratch()}; }

  size_t weight_bytes() const override {
    size_t bytes = 0;
    for (const Block& block : blocks_) {
      bytes += block.weights.size() + (block.offset.size() + block.bias.size()) * sizeof(int32_t);
    }
    return bytes;
  }

  void run(const RunContext& context) const override {
    padded_.fill(context);
    const uint8_t* map = padded_.copies() ? context.shared_scratch : in_.data;
    const int parts = parts_for(context.pool.size());
    context.pool.parallel_for(parts, [&](int worker, int part) {
      const Rows rows{out_.h * part / parts, out_.h * (part + 1) / parts};
      for (const Block& block : blocks_) {
        run_block(context.kernels, map, block, rows, context.scratch_of(worker));
      }
    });
  }

 private:
  struct Place {
    int group, first;  // first channel inside of the group
  };
  struct Rows {
    int begin, end;
  };
  struct Block {
    Place place;
    std::vector<uint8_t> weights;
    std::vector<int32_t> offset, bias;
  };

  void add_block(const ConvParams& conv, Place place, int channels, const WeightStep& packed) {
    const Steps steps{conv};
    const int first = place.group * (conv.channels() / conv.groups) + place.first, end = first + channels;
    Block block{place, {}, {}, std::vector<int32_t>(kLanes)};
    for (int step = 0; step < steps.count(); ++step) {
      if (!steps.kept(first, end, step)) {
        continue;
      }
      const int tap = step / steps.per_tap(), r = tap / window_.size_x, s = tap % window_.size_x;
      block.offset.push_back(static_cast<int32_t>(r * window_.dilation_y * in_.row_bytes() +
                                                  s * window_.dilation_x * in_.pixel_bytes() +
                                                  step % steps.per_tap() * kStepBytes + place.group * conv.depth()));
      block.weights.resize(block.weights.size() + static_cast<size_t>(packed.bytes()));
      for (int k = first; k < end; ++k) {
        for (int i = 0; i < kStepBytes; ++i) {
          packed.set(block.weights.data() + block.weights.size() - packed.bytes(), k - first, i,
                     steps.weight(k, step, i));
        }
      }
    }
    for (int k = first; k < end; ++k) {
      block.bias[static_cast<size_t>(k - first)] = stored_bias(conv, k, in_.storage.zero);
    }
    blocks_.push_back(std::move(block));
  }

  // Parts of the output: some rows each, so that a block's weights are read once for all of them and their input stays
  // in the first-level cache.
  int parts_for(int threads) const {
    const int64_t cached = kInputBytes / in_.row_bytes() / window_.stride_y - window_.size_y;
    const int rows = static_cast<int>(std::clamp<int64_t>(cached, 1, kMostRows));
    const int parts = (out_.h + rows - 1) / rows;
    return std::min((parts + threads - 1) / threads * threads, out_.h);
  }

  // Whether a tile takes two whole rows.
  bool takes_two_rows(const Kernels& kernels) const {
    return width_ <= kernels.sparse_pixels / 2 && !tails_.front().pools;
  }

  void run_block(const Kernels& kernels, const uint8_t* map, const Block& block, Rows rows, uint8_t* scratch) const {
    const SparseBlock packed{static_cast<int>(block.offset.size()), block.weights.data(), block.offset.data(),
                             block.bias.data()};
    SparseSource source;
    source.spacing = window_.stride_x * in_.pixel_bytes();
    source.pitch = window_.stride_y * in_.row_bytes();
    TailWriter writer(kernels, tails_[static_cast<size_t>(block.place.group)], out_, {block.place.first, 1}, scratch);
    if (takes_two_rows(kernels)) {
      source.columns = width_;
      writer.write_rows(rows.begin, rows.end, [&](int y, int count, int32_t* acc) {
        source.origin = map + y * source.pitch;
        source.rows = count;
        kernels.sparse_tile(packed, source, acc);
      });
      return;
    }
    // Tiles of nearly equal size.
    const int most = kernels.sparse_pixels, tiles = (width_ + most - 1) / most;
    for (int row = rows.begin; row < rows.end; ++row) {
      writer.write_row(row, (width_ + tiles - 1) / tiles, [&](int y, int x, int pixels, int32_t* acc) {
        source.origin = map + y * source.pitch + x * source.spacing;
        source.columns = pixels;
        kernels.sparse_tile(packed, source, acc);
      });
    }
  }

  PaddedMap padded_;
  View in_, out_;
  Window window_;
  int width_;                      // of the map before the tail
  std::vector<PackedTail> tails_;  // [groups]
  std::vector<Block> blocks_;
};

}  // namespace

bool pays_sparse(const ConvParams& conv) {
  const Steps steps{conv};
  const int per_group = conv.channels() / conv.groups;
  int64_t kept = 0, all = 0;
  for (int k = 0; k < conv.channels(); k += std::min(kLanes, per_group - k % per_group)) {
    const int end = k + std::min(kLanes, per_group - k % per_group);
    for (int step = 0; step < steps.count(); ++step) {
      kept += steps.kept(k, end, step) ? 1 : 0;
    }
    all += steps.count();
  }
  return kept * kDensityUnit <= all * kMaxKeptSteps;
}

std::unique_ptr<Op> make_sparse_conv(const ConvParams& conv, const Requantiser& requant, const ConvTail& tail, View in,
                                     View out, const Kernels& kernels) {
  return std::make_unique<SparseConvOp>(conv, requant, tail, in, out, kernels);
}

}  // namespace yhw
