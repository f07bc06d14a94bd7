// SPDX-License-Identifier: Apache-2.0
#include "int_conv2d_tiles.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "../engine/arena.h"
#include "../engine/conv_weights.h"
#include "../engine/op.h"
#include "../engine/window_walk.h"
#include "../isa.h"
#include "path.h"

namespace yhw {
namespace {

constexpr int kMaxDepth = 1 << 16;  // products of an output: patches of 1 MiB, and sums of weights in 32 bits
constexpr int kJobsPerThread = 4;
constexpr int kPackedSteps = 16;  // packed together: a cache line of every lane

// The engine's kernels for the instruction set of cpu_path().
const Kernels& engine_kernels() {
#if defined(YHW_X86)
  if (cpu_path() == CpuPath::kAvx512 && cpu_has_avx512vnni()) {
    return avx512vnni_kernels();
  }
  if (cpu_path() != CpuPath::kBaseline) {
    return cpu_has_avxvnni() ? avxvnni_kernels() : avx2_kernels();
  }
#endif
  return scalar_kernels();
}

Window window_of(const ConvSizes& z) {
  return {z.r, z.s, z.stride[0], z.stride[1], z.padding[0], z.padding[1], z.dilation[0], z.dilation[1]};
}

Storage storage_of(CodeType type) { return {type == CodeType::kInt16 ? 2 : 1, 0}; }

Requantiser requantiser_of(const IntConv2dArgs& args) {
  const ConvOutput& o = args.output;
  Requantiser r;
  r.params = {o.requant.mul_pos, o.requant.mul_neg,   o.requant.shift_neg, o.requant.code_lo,
              o.requant.code_hi, o.requant.code_bits, o.requant.clamp_lo,  o.requant.clamp_hi};
  r.rounding = o.rounding;
  r.overflow = o.overflow;
  r.shift.assign(o.shift, o.shift + args.sizes.k);
  for (int64_t i = 0; o.table != nullptr && i < int64_t{1} << o.requant.code_bits; ++i) {
    r.table.push_back(static_cast<Code>(o.entry(i)));
  }
  return r;
}

// Where the codes of a pixel lie: as in x, but at least kStepBytes from pixel to pixel.
View layout_of(const ConvSizes& z, int zero) { return {nullptr, z.c, z.h, z.w, std::max(z.c, kStepBytes), {1, zero}}; }

// The input as the kernels read it, kSlackBytes behind the last code. Bytes that are so already are not copied.
class StagedInput {
 public:
  StagedInput(const IntConv2dArgs& args, const View& layout, bool reads_beyond) : layout_(layout) {
    const auto* codes = static_cast<const uint8_t*>(args.x);
    if (layout.storage.zero == 0 && layout.stride == layout.c && !reads_beyond) {
      data_ = codes;
      return;
    }
    const int64_t pixels = args.sizes.n * layout.pixels();
    copy_.reset(new uint8_t[static_cast<size_t>(pixels * layout.stride + kSlackBytes)]);
    torch::stable::parallel_for(0, pixels, 1 + kGrainBytes / layout.stride,
                                [&](int64_t begin, int64_t end) { copy(codes, begin, end); });
    data_ = copy_.get();
  }

  View image(int64_t n) const {
    View view = layout_;
    view.data = const_cast<uint8_t*>(data_) + n * layout_.pixels() * layout_.stride;  // the kernels only read it
    return view;
  }

 private:
  static constexpr int64_t kGrainBytes = 1 << 16;

  void copy(const uint8_t* codes, int64_t begin, int64_t end) {
    const int c = layout_.c, stride = layout_.stride;
    const auto zero = static_cast<uint8_t>(layout_.storage.zero);
    uint8_t* to = copy_.get();
    if (stride == c) {
      for (int64_t i = begin * c; i < end * c; ++i) {
        to[i] = static_cast<uint8_t>(codes[i] + zero);
      }
      return;
    }
    for (int64_t p = begin; p < end; ++p) {
      for (int i = 0; i < stride; ++i) {  // channels that do not exist repeat the last one and have no weight
        to[p * stride + i] = static_cast<uint8_t>(codes[p * c + std::min(i, c - 1)] + zero);
      }
    }
  }

  View layout_;
  std::unique_ptr<uint8_t[]> copy_;
  const uint8_t* data_;
};

// Brings the weights of kLanes output channels into the order of a kernel.
class LanePacker {
 public:
  LanePacker(const IntConv2dArgs& args, const WindowRuns& runs, int64_t pixel_bytes, WeightLayout layout)
      : args_(args),
        runs_(runs),
        pitch_(pixel_bytes),
        step_(layout, 1),
        run_(static_cast<size_t>(kLanes * runs.run_bytes())) {}

  int step_bytes() const { return step_.bytes(); }

  // Output channels first, ... below `end`, the others get zeros: block `block` of `blocks` at `to`.
  void pack(int first, int end, int block, int blocks, uint8_t* to) {
    const int64_t run_bytes = runs_.run_bytes(), step_pitch = int64_t{blocks} * step_bytes();
    to += block * step_bytes();
    for (int row = 0; row < runs_.rows; ++row) {
      for (int column = 0; column < runs_.columns; ++column) {
        std::fill(run_.begin(), run_.end(), int8_t{0});
        for (int lane = 0; lane < std::min(kLanes, end - first); ++lane) {
          gather(first + lane, row, column, run_.data() + lane * run_bytes);
        }
        for (int begin = 0; begin < runs_.steps; begin += kPackedSteps) {
          const int steps = std::min(kPackedSteps, runs_.steps - begin);
          for (int lane = 0; lane < kLanes; ++lane) {
            const int8_t* from = run_.data() + lane * run_bytes + begin * kStepBytes;
            for (int i = 0; i < steps; ++i) {
              step_.set_bytes(to + (begin + i) * step_pitch, lane, from + i * kStepBytes);
            }
          }
        }
        to += runs_.steps * step_pitch;
      }
    }
  }

 private:
  // The weights of a run; between the channels of two taps there may be those of other groups, which count nothing.
  void gather(int k, int row, int column, int8_t* to) const {
    const ConvSizes& z = args_.sizes;
    const int inputs = z.group_inputs(), first = runs_.merged ? 0 : column, taps = runs_.merged ? z.s : 1;
    const int8_t* from = args_.weights + int64_t{k} * z.depth() + (int64_t{row} * z.s + first) * inputs;
    for (int tap = 0; tap < taps; ++tap) {
      std::memcpy(to + tap * pitch_, from + int64_t{tap} * inputs, static_cast<size_t>(inputs));
    }
  }

  const IntConv2dArgs& args_;
  const WindowRuns& runs_;
  int64_t pitch_;
  WeightStep step_;
  std::vector<int8_t> run_;  // [kLanes][run]
};

// Output channels of a group that are computed together.
struct Chunk {
  int group, first, blocks;
  std::vector<uint8_t> weights;
  std::vector<int32_t> bias;
};

// Dense and grouped convolutions.
class TiledConv {
 public:
  TiledConv(const IntConv2dArgs& args, int zero)
      : args_(args),
        kernels_(engine_kernels()),
        layout_(layout_of(args.sizes, zero)),
        runs_(make_runs(window_of(args.sizes), layout_.of_group(args.sizes.groups))),
        in_(args, layout_, reads_beyond()) {
    const int per_group = args.sizes.group_outputs();
    const Requantiser requant = requantiser_of(args);
    for (int g = 0; g < args.sizes.groups; ++g) {
      epilogues_.push_back(make_epilogue(requant, g * per_group, per_group, storage_of(args.output.type)));
      for_each_chunk(per_group, kernels_.max_blocks,
                     [&](int first, int blocks) { chunks_.push_back({g, first, blocks, {}, {}}); });
    }
    torch::stable::parallel_for(0, static_cast<int64_t>(chunks_.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        pack(chunks_[static_cast<size_t>(i)]);
      }
    });
  }

  void run() const {
    const ConvSizes& z = args_.sizes;
    const auto chunks = static_cast<int64_t>(chunks_.size()), threads = int64_t{torch::stable::get_num_threads()};
    const int64_t wanted = threads == 1 ? 1 : kJobsPerThread * threads;
    const int64_t segments = (wanted + chunks * z.n - 1) / (chunks * z.n), pixels = int64_t{z.ho} * z.wo;
    torch::stable::parallel_for(0, z.n * chunks * segments, 1, [&](int64_t begin, int64_t end) {
      std::vector<uint8_t> patches;
      for (int64_t job = begin; job < end; ++job) {
        const Chunk& chunk = chunks_[static_cast<size_t>(job / segments % chunks)];
        const int64_t segment = job % segments;
        run_chunk(chunk, job / segments / chunks, pixels * segment / segments, pixels * (segment + 1) / segments,
                  patches);
      }
    });
  }

 private:
  bool reads_beyond() const {
    const ConvSizes& z = args_.sizes;
    return runs_.run_bytes() != (runs_.merged ? (z.s - 1) * layout_.pixel_bytes() : 0) + z.group_inputs();
  }

  void pack(Chunk& chunk) const {
    const int first = chunk.group * args_.sizes.group_outputs(), end = first + args_.sizes.group_outputs();
    LanePacker packer(args_, runs_, layout_.pixel_bytes(), kernels_.layout);
    chunk.weights.resize(static_cast<size_t>(int64_t{runs_.rows} * runs_.columns * runs_.steps * chunk.blocks) *
                         static_cast<size_t>(packer.step_bytes()));
    for (int block = 0; block < chunk.blocks; ++block) {
      packer.pack(first + chunk.first + block * kLanes, end, block, chunk.blocks, chunk.weights.data());
    }
    const int depth = args_.sizes.depth();
    chunk.bias.resize(static_cast<size_t>(chunk.blocks * kLanes));
    for (int k = first + chunk.first; k < std::min(end, first + chunk.first + chunk.blocks * kLanes); ++k) {
      chunk.bias[static_cast<size_t>(k - first - chunk.first)] =
          stored_bias<int32_t>(args_.weights + int64_t{k} * depth, depth, args_.output.bias[k], layout_.storage.zero);
    }
  }

  void run_chunk(const Chunk& chunk, int64_t n, int64_t begin, int64_t end, std::vector<uint8_t>& patches) const {
    const ConvSizes& z = args_.sizes;
    const WindowWalk walk(window_of(z), runs_, in_.image(n).of_group(z.groups), z.wo);
    patches.resize(walk.scratch() + kSlackBytes);
    const Epilogue& epilogue = epilogues_[static_cast<size_t>(chunk.group)];
    const int64_t pixel_bytes = int64_t{z.k} * epilogue.out.bytes;
    uint8_t* out = static_cast<uint8_t*>(args_.y) + n * z.ho * z.wo * pixel_bytes +
                   (int64_t{chunk.group} * epilogue.channels + chunk.first) * epilogue.out.bytes;
    const ConvChunk packed{.blocks = chunk.blocks,
                           .rows = runs_.rows,
                           .columns = runs_.columns,
                           .steps = runs_.steps,
                           .weights = chunk.weights.data(),
                           .bias = chunk.bias.data()};
    const int tile = kernels_.tile_pixels[chunk.blocks];
    alignas(kAlignment) int32_t acc[kMaxTileLanes];
    TileSource source;
    for (int64_t at = begin; at < end; at += tile) {
      const int pixels = static_cast<int>(std::min<int64_t>(tile, end - at));
      walk.locate(static_cast<int>(at / z.wo), static_cast<int>(at % z.wo), pixels,
                  int64_t{chunk.group} * z.group_inputs(), patches.data(), source);
      kernels_.conv_tile(packed, source, pixels, acc);
      kernels_.finish(epilogue, acc, chunk.first, chunk.blocks, pixels, out + at * pixel_bytes, pixel_bytes);
    }
  }

  const IntConv2dArgs& args_;
  const Kernels& kernels_;
  View layout_;
  WindowRuns runs_;
  StagedInput in_;
  std::vector<Epilogue> epilogues_;  // [groups]
  std::vector<Chunk> chunks_;
};

// Depthwise convolutions: the engine's operation on bands of output rows. A band is a map of its own, which begins at
// the first row that its windows touch.
void convolve_depthwise(const IntConv2dArgs& args, int zero) {
  const ConvSizes& z = args.sizes;
  const StagedInput in(args, layout_of(z, zero), true);
  const Requantiser requant = requantiser_of(args);
  ConvParams conv{window_of(z), z.groups, {args.weights, args.weights + int64_t{z.k} * z.depth()}, {}};
  conv.bias.assign(args.output.bias, args.output.bias + z.k);
  const Storage storage = storage_of(args.output.type);
  const int threads = static_cast<int>(torch::stable::get_num_threads());
  const int64_t bands = threads == 1 ? 1 : std::min<int64_t>(z.ho, (kJobsPerThread * threads + z.n - 1) / z.n);
  torch::stable::parallel_for(0, z.n * bands, 1, [&](int64_t begin, int64_t end) {
    ThreadPool pool(1);
    for (int64_t job = begin; job < end; ++job) {
      const int64_t n = job / bands, band = job % bands;
      const auto first = static_cast<int>(z.ho * band / bands), last = static_cast<int>(z.ho * (band + 1) / bands);
      const int64_t y = int64_t{first} * z.stride[0] - z.padding[0];
      const int skipped = static_cast<int>(std::clamp<int64_t>(y, 0, z.h));
      View rows = in.image(n);
      rows.data += skipped * rows.row_bytes();
      rows.h -= skipped;
      ConvParams part = conv;
      part.window.pad_y = static_cast<int>(skipped - y);
      View out{nullptr, z.k, last - first, z.wo, z.k, storage};
      out.data = static_cast<uint8_t*>(args.y) + (n * z.ho + first) * out.row_bytes();
      const auto op = make_depthwise(part, requant, rows, out, engine_kernels());
      AlignedBytes scratch(op->scratch().worker + kSlackBytes);
      op->run({.kernels = engine_kernels(),
               .pool = pool,
               .worker_scratch = scratch.data(),
               .worker_bytes = scratch.size(),
               .shared_scratch = nullptr});
    }
  });
}

}  // namespace

bool fits_tiles(const IntConv2dArgs& args) {
  const auto& requant = args.output.requant;
  return args.sizes.depth() <= kMaxDepth && (args.output.table != nullptr || requant.clamp_lo <= requant.code_hi);
}

void convolve_tiles(const IntConv2dArgs& args, int zero) {
  const ConvSizes& z = args.sizes;
  if (z.groups == z.c && z.groups == z.k) {
    return convolve_depthwise(args, zero);
  }
  TiledConv(args, zero).run();
}

}  // namespace yhw
