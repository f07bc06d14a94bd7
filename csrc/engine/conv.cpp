// SPDX-License-Identifier: Apache-2.0
// Dense and grouped convolution in tiles: weights packed once; chunks of output channels outside, pixels inside, so
// that a chunk's weights stay in the cache.
#include <algorithm>

#include "conv_tail.h"
#include "conv_weights.h"
#include "op.h"
#include "padded_map.h"

namespace yhw {
namespace {

// What a thread does in a microsecond, roughly.
constexpr double kMacsPerMicrosecond = 400e3;

class ConvOp final : public Op {
 public:
  ConvOp(const ConvParams& conv, const Requantiser& requant, const ConvTail& tail, View in, View out,
         const Kernels& kernels)
      : padded_(conv.window, in, tail_input(out, tail), conv.channels() / conv.groups > kernels.max_blocks * kLanes),
        in_(padded_.view()),
        out_(out),
        runs_(make_runs(padded_.window(), in_.of_group(conv.groups))),
        walk_(padded_.window(), runs_, in_.of_group(conv.groups), tail_input(out, tail).w),
        macs_(tail_input(out, tail).pixels() * static_cast<int64_t>(conv.weight.size())) {
    const View group_in = in_.of_group(conv.groups);
    const WeightPacker packer(conv, runs_, group_in, kernels);
    const int per_group = conv.channels() / conv.groups;
    bias_.reserve(static_cast<size_t>(conv.groups * ((per_group + kLanes - 1) / kLanes * kLanes)));
    for (int g = 0; g < conv.groups; ++g) {
      const int first = g * per_group;
      tails_.emplace_back(requant, tail, first, per_group, out);
      for_each_chunk(per_group, kernels.max_blocks, [&](int done, int blocks) {
        add_chunk(packer, conv, {g, done, blocks}, first + done, first + per_group);
      });
    }
  }

  ScratchNeed scratch() const override { return {walk_.scratch() + TailWriter::scratch(), padded_.scratch()}; }

  size_t weight_bytes() const override {
    size_t bytes = bias_.size() * sizeof(int32_t);
    for (const Chunk& chunk : chunks_) {
      bytes += chunk.weights.size();
    }
    return bytes;
  }

  void run(const RunContext& context) const override {
    padded_.fill(context);
    const WindowWalk walk = padded_.copies() ? walk_.over(context.shared_scratch) : walk_;
    const int wanted = jobs_of(context.pool, static_cast<double>(macs_) / kMacsPerMicrosecond);
    const auto chunks = static_cast<int>(chunks_.size());
    const int segments = std::max(1, (wanted + chunks - 1) / chunks);
    context.pool.parallel_for(chunks * segments, [&](int worker, int job) {
      const Chunk& chunk = chunks_[static_cast<size_t>(job / segments)];
      run_chunk(context.kernels, walk, chunk, {job % segments, segments}, context.scratch_of(worker));
    });
  }

 private:
  struct Place {
    int group, first, blocks;  // first channel inside of the group
  };
  struct Chunk {
    Place place;
    std::vector<uint8_t> weights;
    size_t bias;  // index into bias_
  };
  // One of `count` equal parts of the output.
  struct Segment {
    int index, count;
  };

  void add_chunk(const WeightPacker& packer, const ConvParams& conv, Place place, int begin, int end) {
    Chunk chunk{place, std::vector<uint8_t>(packer.chunk_bytes(place.blocks)), bias_.size()};
    packer.pack(begin, end, place.blocks, chunk.weights.data());
    for (int lane = begin; lane < begin + place.blocks * kLanes; ++lane) {
      bias_.push_back(lane < end ? stored_bias(conv, lane, in_.storage.zero) : 0);
    }
    chunks_.push_back(std::move(chunk));
  }

  void run_chunk(const Kernels& kernels, const WindowWalk& walk, const Chunk& chunk, Segment segment,
                 uint8_t* scratch) const {
    const auto [group, first, blocks] = chunk.place;
    const int tile = kernels.tile_pixels[blocks], bytes = in_.storage.bytes;
    const ConvChunk packed{
        blocks, runs_.rows, runs_.columns, runs_.steps, chunk.weights.data(), bias_.data() + chunk.bias, bytes == 2};
    const int64_t offset = static_cast<int64_t>(group) * (in_.c / static_cast<int>(tails_.size())) * bytes;
    uint8_t* patches = scratch + TailWriter::scratch();
    TileSource source;
    const auto accumulate = [&](int y, int x, int pixels, int32_t* acc) {
      walk.locate(y, x, pixels, offset, patches, source);
      kernels.conv_tile(packed, source, pixels, acc);
    };
    TailWriter writer(kernels, tails_[static_cast<size_t>(group)], out_, {first, blocks}, scratch);
    writer.write(segment.index, segment.count, tile, accumulate);
  }

  PaddedMap padded_;
  View in_, out_;
  WindowRuns runs_;
  WindowWalk walk_;
  int64_t macs_;
  std::vector<PackedTail> tails_;  // [groups]
  std::vector<Chunk> chunks_;
  std::vector<int32_t> bias_;
};

}  // namespace

bool ConvParams::fits_bytes() const {
  return std::all_of(weight.begin(), weight.end(), [](int16_t w) { return w >= -128 && w <= 127; });
}

int32_t stored_bias(const ConvParams& conv, int k, int zero) {
  const auto row = static_cast<int64_t>(conv.weight.size() / conv.bias.size());
  return stored_bias<int64_t>(conv.weight.data() + k * row, row, conv.bias[static_cast<size_t>(k)], zero);
}

std::unique_ptr<Op> make_conv(const ConvParams& conv, const Requantiser& requant, const ConvTail& tail, View in,
                              View out, const Kernels& kernels) {
  return std::make_unique<ConvOp>(conv, requant, tail, in, out, kernels);
}

}  // namespace yhw
