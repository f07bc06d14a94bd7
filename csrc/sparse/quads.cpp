// SPDX-License-Identifier: Apache-2.0
#include "quads.h"

#include "arena.h"
#include "kernels.h"

namespace yhw {
namespace sparse {
namespace {

// The kernels take unsigned codes: signed ones are read as x + 128, and the bias makes up for 128 times the weights.
constexpr int32_t kSignedOffset = 128;
constexpr uint32_t kFlipSigns = 0x80808080u;

// A last quad of fewer channels; those that do not exist are null.
void make_short_quads(const uint8_t* const* channels, int64_t pixels, uint32_t flip, int32_t* quads) {
  for (int64_t i = 0; i < pixels; ++i) {
    uint32_t quad = 0;
    for (int byte = 0; byte < kQuad && channels[byte] != nullptr; ++byte) {
      quad |= static_cast<uint32_t>(channels[byte][i]) << (8 * byte);
    }
    quads[i] = static_cast<int32_t>(quad ^ flip);
  }
}

// x -> [batch, groups, quads, height, width].
void make_all_quads(const CodeProblem& p, Path path, const Parallel& parallel, int32_t* quads) {
  const auto make_quads = kernels_of<int32_t>(path).make_quads;
  const int64_t channels = p.shape.group_channels(), count = quads_of(channels),
                pixels = p.shape.height * p.shape.width;
  const uint32_t flip = p.is_signed ? kFlipSigns : 0;
  parallel(p.shape.batch * p.shape.groups, [&](int64_t group) {
    for (int64_t quad = 0; quad < count; ++quad) {
      const uint8_t* planes[kQuad] = {};
      for (int64_t i = 0; i < kQuad && quad * kQuad + i < channels; ++i) {
        planes[i] = p.x + (group * channels + quad * kQuad + i) * pixels;
      }
      const auto make = planes[kQuad - 1] != nullptr ? make_quads : make_short_quads;
      make(planes, pixels, flip, quads + (group * count + quad) * pixels);
    }
  });
}

int32_t sum_of_weights(int32_t quad) {
  const auto bits = static_cast<uint32_t>(quad);
  return static_cast<int8_t>(bits) + static_cast<int8_t>(bits >> 8) + static_cast<int8_t>(bits >> 16) +
         static_cast<int8_t>(bits >> 24);
}

// bias - 128 * sum of weights: [rows of blocks * block_rows].
void offset_bias(const CodeProblem& p, int64_t rows, int64_t chunks, uint32_t* bias) {
  const Weights<int32_t>& w = p.weights;
  for (int64_t k = 0; k < rows * w.block_rows; ++k) {
    bias[k] = p.bias != nullptr && k < p.shape.out_channels ? static_cast<uint32_t>(p.bias[k]) : 0;
  }
  for (int64_t cell = 0; cell < chunks * rows; ++cell) {
    uint32_t* const of_row = bias + cell % rows * w.block_rows;
    const int32_t* value = w.values + int64_t{w.starts[cell]} * w.block_rows;
    for (int32_t block = w.starts[cell]; block < w.starts[cell + 1]; ++block, value += w.block_rows) {
      for (int32_t m = 0; m < w.block_rows; ++m) {
        of_row[m] -= static_cast<uint32_t>(kSignedOffset * sum_of_weights(value[m]));
      }
    }
  }
}

}  // namespace

void convolve_codes(const CodeProblem& p, Path path, int threads, const Parallel& parallel) {
  Problem<int32_t> problem{in_quads(p.shape), p.weights, Activation::kNone, 0, 0, nullptr, p.bias, p.y};
  const int64_t rows = problem.block_row_count();
  static thread_local Arena arena;
  int32_t* quads = nullptr;
  uint32_t* bias = nullptr;
  for (char* memory = nullptr;;) {
    Cursor cursor(memory);
    quads = cursor.take<int32_t>(p.shape.batch * problem.shape.in_channels * p.shape.height * p.shape.width);
    bias = cursor.take<uint32_t>(rows * p.weights.block_rows);
    if (memory != nullptr || cursor.used() == 0) {
      break;
    }
    memory = arena.reserve(cursor.used());
  }
  make_all_quads(p, path, parallel, quads);
  problem.x = quads;
  if (p.is_signed) {
    offset_bias(p, rows, problem.chunk_count(), bias);
    problem.bias = reinterpret_cast<const int32_t*>(bias);
    problem.outside = static_cast<int32_t>(kFlipSigns);
  }
  convolve(problem, path, threads, parallel);
}

}  // namespace sparse
}  // namespace yhw
