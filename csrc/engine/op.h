// SPDX-License-Identifier: Apache-2.0
#ifndef YHW_ENGINE_OP_H_
#define YHW_ENGINE_OP_H_

#include <memory>
#include <vector>

#include "kernels.h"
#include "thread_pool.h"
#include "view.h"

namespace yhw {

// What an operation needs while it runs. `scratch` has one buffer per worker plus a shared one, grown before the run.
struct RunContext {
  const Kernels& kernels;
  ThreadPool& pool;
  std::vector<std::vector<int64_t>>& worker_scratch;
  std::vector<Code>& shared_scratch;
};

// Sizes an operation wants of the scratch buffers.
struct ScratchNeed {
  size_t worker_words = 0;  // int64 words per worker
  size_t shared_codes = 0;
};

// One node of the graph, with its parameters packed and its inputs and output resolved to memory.
class Op {
 public:
  virtual ~Op() = default;
  virtual ScratchNeed scratch() const { return {}; }
  virtual void run(RunContext& context) const = 0;
};

// Shape of a map as the graph declares it.
struct Shape {
  int c = 0, h = 0, w = 0;
};

// Parameters of a convolution as the graph holds them: weight [K, C / groups, R, S], bias [K].
struct ConvSpec {
  Window window;
  int groups = 1;
  const int32_t* weight = nullptr;
  const int32_t* bias = nullptr;
  int acc_bits = 32;  // proven width of the accumulators
};

std::unique_ptr<Op> make_conv(const ConvSpec& spec, View in, View out, Requantiser requant);
std::unique_ptr<Op> make_add(std::vector<View> inputs, std::vector<int> left_shifts, View out, Requantiser requant);
std::unique_ptr<Op> make_mul(View map, View factors, View out, Requantiser requant);
std::unique_ptr<Op> make_avgpool(View in, View out, Requantiser requant);
std::unique_ptr<Op> make_maxpool(const Window& window, View in, View out);
std::unique_ptr<Op> make_upsample(int stride, View in, View out);
// `sources` holds the flat CHW input index of every flat CHW output element.
std::unique_ptr<Op> make_permute(std::vector<int32_t> sources, View in, View out);

}  // namespace yhw

#endif  // YHW_ENGINE_OP_H_
