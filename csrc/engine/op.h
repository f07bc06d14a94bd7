// SPDX-License-Identifier: Apache-2.0
#ifndef YHW_ENGINE_OP_H_
#define YHW_ENGINE_OP_H_

#include <memory>
#include <vector>

#include "kernels.h"
#include "thread_pool.h"
#include "view.h"

namespace yhw {

// Kernels read up to a vector beyond the last code they need; every buffer has this many bytes more.
constexpr int kSlackBytes = 64;

// What an operation needs while it runs: the scratch memory it asked for.
struct RunContext {
  const Kernels& kernels;
  ThreadPool& pool;
  uint8_t* worker_scratch;  // [worker][worker_bytes]
  size_t worker_bytes;
  uint8_t* shared_scratch;

  uint8_t* scratch_of(int worker) const { return worker_scratch + static_cast<size_t>(worker) * worker_bytes; }
};

constexpr int kJobsPerThread = 4;

// Jobs to cut a loop into that takes one thread so many microseconds: some for each thread, which may be interrupted,
// but one where handing them out would count.
inline int jobs_of(const ThreadPool& pool, double microseconds) {
  constexpr double kJobMicroseconds = 10;
  const double jobs = microseconds / (kJobMicroseconds * pool.size());
  return pool.size() == 1 ? 1
                          : pool.size() * static_cast<int>(jobs < 1                ? 1
                                                           : jobs > kJobsPerThread ? kJobsPerThread
                                                                                   : jobs);
}

// Calls body(worker, y) for every row.
template <typename Body>
void parallel_rows(ThreadPool& pool, int rows, const Body& body) {
  const int most = kJobsPerThread * pool.size(), jobs = rows < most ? rows : most;
  pool.parallel_for(jobs, [&](int worker, int job) {
    for (int y = rows * job / jobs; y < rows * (job + 1) / jobs; ++y) {
      body(worker, y);
    }
  });
}

// Sizes an operation wants of the scratch buffers, in bytes; both are aligned to 64.
struct ScratchNeed {
  size_t worker = 0;
  size_t shared = 0;
};

// One node of the graph, with its parameters packed and its inputs and output resolved to memory.
class Op {
 public:
  virtual ~Op() = default;
  virtual ScratchNeed scratch() const { return {}; }
  virtual size_t weight_bytes() const { return 0; }
  virtual void run(const RunContext& context) const = 0;
};

// Shape of a map as the graph declares it.
struct Shape {
  int c = 0, h = 0, w = 0;
};

// Parameters of a convolution as the graph holds them: weight [K, C / groups, R, S], bias [K].
struct ConvParams {
  Window window;
  int groups = 1;
  std::vector<int16_t> weight;
  std::vector<int32_t> bias;

  int channels() const { return static_cast<int>(bias.size()); }
  // Inputs per group.
  int depth() const { return static_cast<int>(weight.size() / bias.size()) / window.taps(); }
  bool fits_bytes() const;
};

// The bias of output channel k over inputs that are stored with `zero` added, modulo 2^32.
int32_t stored_bias(const ConvParams& conv, int k, int zero);

// A map that is added to a convolution's codes, and what becomes of the sum: requant(conv << left_conv + map <<
// left_map).
struct Residual {
  View map;
  Storage conv;  // of the convolution's codes
  int left_conv = 0, left_map = 0;
  Requantiser requant;
};

// What a convolution does to its result before it is stored.
struct ConvTail {
  bool pools = false;  // the largest of every 2 x 2; a requantisation that never falls commutes with it
  std::shared_ptr<const Residual> residual;
};

// Whether the code never falls when the accumulator rises.
bool is_monotone(const Requantiser& requant);

// `out` is the map behind the tail.
std::unique_ptr<Op> make_conv(const ConvParams& conv, const Requantiser& requant, const ConvTail& tail, View in,
                              View out, const Kernels& kernels);
// The same for bytes, multiplying only steps of weights that are not all zero, and whether that is faster.
std::unique_ptr<Op> make_sparse_conv(const ConvParams& conv, const Requantiser& requant, const ConvTail& tail, View in,
                                     View out, const Kernels& kernels);
bool pays_sparse(const ConvParams& conv);
std::unique_ptr<Op> make_depthwise(const ConvParams& conv, const Requantiser& requant, View in, View out,
                                   const Kernels& kernels);
// For accumulators of more than 32 bits.
std::unique_ptr<Op> make_wide_conv(const ConvParams& conv, const Requantiser& requant, View in, View out);
std::unique_ptr<Op> make_add(std::vector<View> inputs, const std::vector<int>& left_shifts, Requantiser requant,
                             View out);
std::unique_ptr<Op> make_mul(const Requantiser& requant, View map, View factors, View out);
std::unique_ptr<Op> make_avgpool(const Requantiser& requant, View in, View out);
std::unique_ptr<Op> make_maxpool(const Window& window, View in, View out);
// Nearest-neighbour enlargement; stride 1 is a copy. The storages may differ.
std::unique_ptr<Op> make_upsample(int stride, View in, View out);
// `sources` holds the flat CHW input index of every flat CHW output element.
std::unique_ptr<Op> make_permute(std::vector<int32_t> sources, View in, View out);

}  // namespace yhw

#endif  // YHW_ENGINE_OP_H_
