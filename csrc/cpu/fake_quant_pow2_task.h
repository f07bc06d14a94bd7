// SPDX-License-Identifier: Apache-2.0
// What the CPU kernels of fake_quant_pow2 are told, as plain data: the same for every instruction set.
#ifndef YHW_CPU_FAKE_QUANT_POW2_TASK_H_
#define YHW_CPU_FAKE_QUANT_POW2_TASK_H_

#include "../core/learned_step.h"
#include "../strided_index.h"

namespace yhw {

enum class ElementType { kFloat32, kFloat64, kFloat16, kBfloat16 };

// An input: in the memory order of the output, or strided.
struct FakeQuantInput {
  const void* data;
  const StridedIndex* index;  // null: the order of the output
};

// Elements that a kernel holds in the first-level cache at a time.
constexpr int64_t kFakeQuantTile = kSumChunk;
// Runs of elements with one format at least this long are handled one by one, shorter ones by rows of formats.
constexpr int64_t kShortRun = 32;
// The same where the row of formats would serve once.
constexpr int64_t kShortRunOnce = 8;
// Runs of a channel at least this long are summed where they lie, shorter ones are brought together first.
constexpr int64_t kLongRun = 512;

struct FakeQuantTask {
  ElementType type;
  Rounding rounding;
  Overflow overflow;
  CodeRange range;
  StepGradient gradient;  // learned backward
  ChannelLayout layout;
  int64_t count;       // elements
  const int* fracs;    // [layout.channels]
  const void* scales;  // [channels * inner] of the computing type where runs are short, else null
  const void* steps;   // 1 / scales
  FakeQuantInput x;
  FakeQuantInput grad;  // backward
  int64_t chunks;       // of a channel, learned backward
  int64_t part_chunks;  // of a channel in one part
  bool stream;          // the output is larger than the caches: write past them
  // outputs
  void* out;         // y or grad_x, dense
  double* partials;  // [channels, chunks], learned backward
};

// One table for each instruction set. Forward and backward take a range of elements, the learned backward one of the
// parts [ceil(chunks / part_chunks), channels] of whole chunks of one channel (core/learned_step.h).
struct FakeQuantKernels {
  void (*forward)(const FakeQuantTask& task, int64_t begin, int64_t end);
  void (*backward)(const FakeQuantTask& task, int64_t begin, int64_t end);
  void (*learned_backward)(const FakeQuantTask& task, int64_t begin, int64_t end);
};

extern const FakeQuantKernels fake_quant_kernels_baseline;
extern const FakeQuantKernels fake_quant_kernels_avx2;
extern const FakeQuantKernels fake_quant_kernels_avx512;

}  // namespace yhw

#endif  // YHW_CPU_FAKE_QUANT_POW2_TASK_H_
