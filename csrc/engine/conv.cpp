// SPDX-License-Identifier: Apache-2.0
// Dense and grouped convolution in tiles: weights packed once; chunks of output channels outside, pixels inside, so
// that a chunk's weights stay in the cache.
#include <algorithm>

#include "op.h"
#include "weight_step.h"
#include "window_walk.h"

namespace yhw {
namespace {

// Jobs per thread and loop: enough for threads that are interrupted, few enough to cost nothing.
constexpr int kJobsPerThread = 4;

// The weights of one run and chunk, in the order a kernel takes them.
class WeightPacker {
 public:
  WeightPacker(const ConvParams& conv, const WindowRuns& runs, const View& group_in, const Kernels& kernels)
      : conv_(conv), runs_(runs), in_(group_in), step_(kernels.layout, group_in.storage.bytes) {}

  size_t chunk_bytes(int blocks) const {
    return static_cast<size_t>(runs_.rows * runs_.columns * runs_.steps) * static_cast<size_t>(blocks * step_.bytes());
  }

  // Output channels [first, first + blocks * kLanes) below `end`; the others get zeros.
  void pack(int first, int end, int blocks, uint8_t* to) const {
    for (int row = 0; row < runs_.rows; ++row) {
      for (int column = 0; column < runs_.columns; ++column) {
        for (int step = 0; step < runs_.steps; ++step) {
          for (int block = 0; block < blocks; ++block) {
            pack_step(first + block * kLanes, end, row, column, step, to);
            to += step_.bytes();
          }
        }
      }
    }
  }

 private:
  void pack_step(int first, int end, int row, int column, int step, uint8_t* to) const {
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int i = 0; i < step_.codes(); ++i) {
        const bool exists = first + lane < end;
        step_.set(to, lane, i, exists ? weight(first + lane, row, column, step * step_.codes() + i) : int16_t{0});
      }
    }
  }

  // The weight of code `code` of a run, 0 between the channels of two taps and behind the last.
  int16_t weight(int k, int row, int column, int code) const {
    const int tap = runs_.merged ? code / in_.stride : column;
    const int channel = runs_.merged ? code % in_.stride : code;
    if (channel >= in_.c || tap >= conv_.window.size_x) {
      return 0;
    }
    const int64_t index = (static_cast<int64_t>(k) * in_.c + channel) * conv_.window.taps();
    return conv_.weight[static_cast<size_t>(index + row * conv_.window.size_x + tap)];
  }

  const ConvParams& conv_;
  const WindowRuns& runs_;
  const View& in_;
  WeightStep step_;
};

View group_view(View in, int groups) {
  in.c /= groups;
  return in;
}

class ConvOp final : public Op {
 public:
  ConvOp(const ConvParams& conv, const Requantiser& requant, View in, View out, const Kernels& kernels)
      : in_(in),
        out_(out),
        runs_(make_runs(conv.window, group_view(in, conv.groups))),
        walk_(conv.window, runs_, group_view(in, conv.groups), out.w) {
    const View group_in = group_view(in, conv.groups);
    const WeightPacker packer(conv, runs_, group_in, kernels);
    const int per_group = conv.channels() / conv.groups;
    bias_.reserve(static_cast<size_t>(conv.groups * ((per_group + kLanes - 1) / kLanes * kLanes)));
    for (int g = 0; g < conv.groups; ++g) {
      const int first = g * per_group;
      epilogues_.push_back(make_epilogue(requant, first, per_group, out.storage));
      int blocks_left = (per_group + kLanes - 1) / kLanes;
      for (int done = 0; blocks_left > 0;) {
        // Equal chunks: 5 blocks are 3 and 2, not 4 and 1.
        const int chunks = (blocks_left + kernels.max_blocks - 1) / kernels.max_blocks;
        const int blocks = (blocks_left + chunks - 1) / chunks;
        add_chunk(packer, conv, {g, done, blocks}, first + done, first + per_group);
        done += blocks * kLanes;
        blocks_left -= blocks;
      }
    }
  }

  ScratchNeed scratch() const override { return {walk_.scratch() + kMaxTileLanes * sizeof(int32_t), 0}; }

  size_t weight_bytes() const override {
    size_t bytes = bias_.size() * sizeof(int32_t);
    for (const Chunk& chunk : chunks_) {
      bytes += chunk.weights.size();
    }
    return bytes;
  }

  void run(const RunContext& context) const override {
    const int wanted = context.pool.size() == 1 ? 1 : kJobsPerThread * context.pool.size();
    const auto chunks = static_cast<int>(chunks_.size());
    const int segments = std::max(1, (wanted + chunks - 1) / chunks);
    context.pool.parallel_for(chunks * segments, [&](int worker, int job) {
      const Chunk& chunk = chunks_[static_cast<size_t>(job / segments)];
      const int tile = context.kernels.tile_pixels[chunk.place.blocks];
      const int64_t tiles = (out_.pixels() + tile - 1) / tile, segment = job % segments;
      const int64_t begin = tiles * segment / segments * tile, end = tiles * (segment + 1) / segments * tile;
      run_chunk(context.kernels, chunk, begin, std::min(end, out_.pixels()), context.scratch_of(worker));
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

  void add_chunk(const WeightPacker& packer, const ConvParams& conv, Place place, int begin, int end) {
    Chunk chunk{place, std::vector<uint8_t>(packer.chunk_bytes(place.blocks)), bias_.size()};
    packer.pack(begin, end, place.blocks, chunk.weights.data());
    const auto row = conv.weight.size() / conv.bias.size();
    for (int lane = begin; lane < begin + place.blocks * kLanes; ++lane) {
      int64_t bias = 0;
      if (lane < end) {
        const int16_t* weights = conv.weight.data() + static_cast<size_t>(lane) * row;
        bias = conv.bias[static_cast<size_t>(lane)];
        for (size_t i = 0; i < row; ++i) {
          bias -= int64_t{in_.storage.zero} * weights[i];
        }
      }
      bias_.push_back(static_cast<int32_t>(bias));  // sums are modulo 2^32
    }
    chunks_.push_back(std::move(chunk));
  }

  void run_chunk(const Kernels& kernels, const Chunk& chunk, int64_t begin, int64_t end, uint8_t* scratch) const {
    const auto [group, first, blocks] = chunk.place;
    auto* acc = reinterpret_cast<int32_t*>(scratch);
    uint8_t* patches = scratch + kMaxTileLanes * sizeof(int32_t);
    ConvChunk packed{blocks,
                     runs_.rows,
                     runs_.columns,
                     runs_.steps,
                     chunk.weights.data(),
                     bias_.data() + chunk.bias,
                     in_.storage.bytes == 2};
    const Epilogue& epilogue = epilogues_[static_cast<size_t>(group)];
    const int64_t in_offset =
        static_cast<int64_t>(group) * (in_.c / static_cast<int>(epilogues_.size())) * in_.storage.bytes;
    const int64_t out_offset = (static_cast<int64_t>(group) * epilogue.channels + first) * out_.storage.bytes;
    const int tile = kernels.tile_pixels[blocks];
    TileSource source;
    for (int64_t at = begin; at < end; at += tile) {
      const int pixels = static_cast<int>(std::min<int64_t>(tile, end - at));
      walk_.locate(at, pixels, in_offset, patches, source);
      kernels.conv_tile(packed, source, pixels, acc);
      kernels.finish(epilogue, acc, first, blocks, pixels, out_.pixel(at) + out_offset, out_.pixel_bytes());
    }
  }

  View in_, out_;
  WindowRuns runs_;
  WindowWalk walk_;
  std::vector<Epilogue> epilogues_;  // [groups]
  std::vector<Chunk> chunks_;
  std::vector<int32_t> bias_;
};

}  // namespace

bool ConvParams::fits_bytes() const {
  return std::all_of(weight.begin(), weight.end(), [](int16_t w) { return w >= -128 && w <= 127; });
}

std::unique_ptr<Op> make_conv(const ConvParams& conv, const Requantiser& requant, View in, View out,
                              const Kernels& kernels) {
  return std::make_unique<ConvOp>(conv, requant, in, out, kernels);
}

}  // namespace yhw
