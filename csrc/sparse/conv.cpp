// SPDX-License-Identifier: Apache-2.0
#include "conv.h"

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <vector>

#include "../isa.h"
#include "arena.h"
#include "kernels.h"

namespace yhw {
namespace sparse {
namespace {

// Accumulators of one task between two chunks: they and the weights share the second-level cache.
constexpr int64_t kAccumulatorBytes = 512 << 10;
// Idle time of threads that is worth a further copy of the input.
constexpr double kBalance = 1.1;
constexpr uint16_t kNoTap = 0xffff;

template <typename Element>
Kernels<Element> kernels_of(Path path);

template <>
Kernels<double> kernels_of<double>(Path) {
  return scalar_kernels_double();
}

template <>
Kernels<float> kernels_of<float>(Path path) {
#if defined(YHW_X86)
  if (path == Path::kAvx512 || path == Path::kAvx512Vnni) {
    return avx512_kernels();
  }
  if (path != Path::kScalar) {
    return avx2_kernels();
  }
#endif
  static_cast<void>(path);
  return scalar_kernels_float();
}

template <>
Kernels<int32_t> kernels_of<int32_t>(Path path) {
#if defined(YHW_X86)
  if (path == Path::kAvx512Vnni) {
    return avx512vnni_kernels_quads();
  }
  if (path == Path::kAvxVnni) {
    return avxvnni_kernels_quads();
  }
  if (path != Path::kScalar) {
    return avx2_kernels_quads();
  }
#endif
  static_cast<void>(path);
  return scalar_kernels_quads();
}

template <typename Element>
Workspace<Element> lay_out(Cursor& cursor, const Job<Element>& job, int64_t block_rows_of_task) {
  const Tiling& t = job.tiling;
  const int64_t block = job.problem.weights.block_rows, vector = t.lanes, pieces = t.lanes / t.strip;
  Workspace<Element> w{};
  w.input = cursor.take<Element>(job.problem.weights.chunk * t.channel_vectors * vector);
  w.accumulators =
      cursor.take<Element>(job.problem.chunk_count() > 1 ? block_rows_of_task * block * t.rows * vector : 0);
  w.result = cursor.take<Element>(block * t.rows * vector);
  w.bias = cursor.take<Element>(block * vector);
  w.loads = cursor.take<Copy>(static_cast<int64_t>(t.input_rows.size()) * t.shape.kernel_w * pieces);
  w.stores = cursor.take<Copy>(t.rows * pieces);
  return w;
}

// Parts that the block rows of a tile are split into: as few as fit the cache and keep all threads busy.
template <typename Element>
int64_t split_rows(const Job<Element>& job, int threads) {
  const Tiling& t = job.tiling;
  const int64_t block_rows = job.problem.block_row_count();
  const int64_t per_row = job.problem.weights.block_rows * t.rows * t.lanes * static_cast<int64_t>(sizeof(Element));
  const int64_t bytes = job.problem.chunk_count() > 1 ? block_rows * per_row : 0;
  const auto idle = [&](int64_t parts) {
    const int64_t tasks = t.tiles * parts;
    return static_cast<double>((tasks + threads - 1) / threads * threads) / static_cast<double>(tasks);
  };
  int64_t parts = (bytes + kAccumulatorBytes - 1) / kAccumulatorBytes;
  parts = std::max<int64_t>(parts, 1);
  while (parts < block_rows && idle(parts) > kBalance) {
    ++parts;
  }
  return std::min(parts, block_rows);
}

// Turns taps into vectors of the tile buffer.
template <typename Element>
std::unique_ptr<uint16_t[]> place_taps(const Problem<Element>& problem, const Tiling& tiling) {
  const Weights<Element>& w = problem.weights;
  const int bits = tap_bits(problem.shape.kernel_size());
  const size_t per_channel = size_t{1} << bits;
  std::vector<uint16_t> table(static_cast<size_t>(w.chunk) * per_channel, kNoTap);
  for (size_t channel = 0; channel < static_cast<size_t>(w.chunk); ++channel) {
    for (size_t tap = 0; tap < tiling.tap_vectors.size(); ++tap) {
      const size_t vector = channel * static_cast<size_t>(tiling.channel_vectors) + tiling.tap_vectors[tap];
      table[channel * per_channel + tap] = static_cast<uint16_t>(vector);
    }
  }
  const int64_t chunks = problem.chunk_count(), rows = problem.block_row_count();
  std::unique_ptr<uint16_t[]> offsets(new uint16_t[static_cast<size_t>(w.starts[chunks * rows]) + 1]);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t channels = std::min<int64_t>(w.chunk, problem.shape.group_channels() - chunk * w.chunk);
    const size_t limit = static_cast<size_t>(channels) << bits;
    bool bad = false;
    for (int32_t i = w.starts[chunk * rows]; i < w.starts[(chunk + 1) * rows]; ++i) {
      const size_t tap = static_cast<uint16_t>(w.taps[i]);
      const uint16_t offset = table[tap < limit ? tap : 0];
      bad |= tap >= limit || offset == kNoTap;
      offsets[static_cast<size_t>(i)] = offset;
    }
    if (bad) {
      throw std::runtime_error("sparse_conv2d: taps must point into their chunk of channels and into the kernel");
    }
  }
  return offsets;
}

}  // namespace

template <typename Element>
void convolve(const Problem<Element>& problem, Path path, int threads, const Parallel& parallel) {
  const Kernels<Element> kernels = kernels_of<Element>(path);
  Job<Element> job{problem, make_tiling(problem.shape, kernels.lanes, kernels.max_rows, problem.weights.chunk),
                   nullptr};
  if (job.tiling.tiles == 0 || problem.shape.out_channels == 0) {
    return;
  }
  const std::unique_ptr<uint16_t[]> offsets = place_taps(problem, job.tiling);
  job.offsets = offsets.get();
  const int64_t block_rows = problem.block_row_count(), parts = split_rows(job, threads);
  parallel(job.tiling.tiles * parts, [&](int64_t task) {
    static thread_local Arena arena;
    const int64_t part = task % parts;
    const int64_t first = block_rows * part / parts, last = block_rows * (part + 1) / parts;
    Cursor count(nullptr);
    lay_out(count, job, last - first);
    Cursor cursor(arena.reserve(count.used()));
    kernels.run_tile(job, task / parts, first, last, lay_out(cursor, job, last - first));
  });
}

template void convolve(const Problem<float>&, Path, int, const Parallel&);
template void convolve(const Problem<double>&, Path, int, const Parallel&);
template void convolve(const Problem<int32_t>&, Path, int, const Parallel&);

}  // namespace sparse
}  // namespace yhw
