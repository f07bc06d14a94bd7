// SPDX-License-Identifier: Apache-2.0
#include "conv.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include "../isa.h"
#include "arena.h"
#include "kernels.h"

namespace yhw {
namespace sparse {

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

namespace {

// Accumulators of one task between two chunks: they and the weights share the second-level cache.
constexpr int64_t kAccumulatorBytes = 512 << 10;
// Idle time of threads that is worth a further copy of the input.
constexpr double kBalance = 1.1;
template <typename Place>
constexpr Place kNoTap = std::numeric_limits<Place>::max();

template <typename Element>
Workspace<Element> lay_out(Cursor& cursor, const Job<Element>& job, int64_t block_rows_of_task) {
  const Tiling& t = job.tiling;
  const int64_t block = job.problem.weights.block_rows, vector = t.lanes;
  Workspace<Element> w{};
  w.input = cursor.take<Element>(job.problem.weights.chunk * t.channel_vectors * vector);
  w.accumulators =
      cursor.take<Element>(job.problem.chunk_count() > 1 ? block_rows_of_task * block * t.rows * vector : 0);
  w.result = cursor.take<Element>(block * t.rows * vector);
  w.bias = cursor.take<Element>(block * vector);
  w.loads = cursor.take<Copy>(t.load_count());
  w.stores = cursor.take<Copy>(t.store_count());
  return w;
}

template <typename Element>
RegionWorkspace<Element> lay_out(Cursor& cursor, const RegionJob<Element>& job, int64_t block_rows_of_task) {
  const Regions& r = job.regions;
  const Weights<Element>& weights = job.problem.weights;
  // Transposing reads whole vectors of pixels.
  constexpr int64_t kBeyond = kRegionRows;
  const int64_t rows = job.problem.chunk_count() > 1 ? block_rows_of_task * weights.block_rows / kRegionRows : 1;
  RegionWorkspace<Element> w{};
  const int64_t copied = r.in_place ? 0 : r.channel_elements();
  w.input = cursor.take<Element>(weights.chunk * copied);
  w.sums = cursor.take<Element>((rows * r.pixels() + kBeyond) * kRegionRows);
  w.bias = cursor.take<Element>(kRegionRows);
  w.loads = cursor.take<Copy>(copied);
  return w;
}

// Parts that the block rows of a tile or region are split into: as few as fit the cache and keep all threads busy.
template <typename Element>
int64_t split_rows(const Problem<Element>& problem, int64_t pieces, int64_t pixels, int threads) {
  const int64_t block_rows = problem.block_row_count();
  const int64_t per_row = problem.weights.block_rows * pixels * static_cast<int64_t>(sizeof(Element));
  const int64_t bytes = problem.chunk_count() > 1 ? block_rows * per_row : 0;
  const auto idle = [&](int64_t parts) {
    const int64_t tasks = pieces * parts;
    return static_cast<double>((tasks + threads - 1) / threads * threads) / static_cast<double>(tasks);
  };
  int64_t parts = (bytes + kAccumulatorBytes - 1) / kAccumulatorBytes;
  parts = std::max<int64_t>(parts, 1);
  while (parts < block_rows && idle(parts) > kBalance) {
    ++parts;
  }
  return std::min(parts, block_rows);
}

// Where the taps of a chunk lie.
template <typename Place>
struct TapPlaces {
  std::vector<Place> of_tap;  // in a channel; kNoTap of codes that are no tap
  Place per_channel;
};

template <typename Place>
TapPlaces<Place> tap_places(const ConvShape& shape, std::vector<Place> of_tap, int64_t per_channel) {
  of_tap.resize(size_t{1} << tap_bits(shape.kernel_size()), kNoTap<Place>);
  return {std::move(of_tap), static_cast<Place>(per_channel)};
}

// Turns taps into places, those of one chunk with `channels` channels. Returns whether all are in the chunk.
template <typename Place>
bool place_chunk(const int16_t* taps, int64_t count, int64_t channels, const TapPlaces<Place>& table, Place* places) {
  const size_t codes = table.of_tap.size(), limit = static_cast<size_t>(channels) * codes;
  const int bits = tap_bits(static_cast<int64_t>(codes));
  bool good = true;
  for (int64_t i = 0; i < count; ++i) {
    const size_t tap = static_cast<uint16_t>(taps[i]);
    const Place in_channel = table.of_tap[tap & (codes - 1)];
    good &= tap < limit && in_channel != kNoTap<Place>;
    places[i] = static_cast<Place>((tap >> bits) * table.per_channel + in_channel);
  }
  return good;
}

template <typename Place, typename Element>
std::unique_ptr<Place[]> place_taps(const Problem<Element>& problem, const TapPlaces<Place>& table,
                                    const Kernels<Element>& kernels) {
  const Weights<Element>& w = problem.weights;
  const int64_t chunks = problem.chunk_count(), rows = problem.block_row_count();
  std::unique_ptr<Place[]> places(new Place[static_cast<size_t>(w.starts[chunks * rows]) + kPlacesAhead]);
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t channels = std::min<int64_t>(w.chunk, problem.shape.group_channels() - chunk * w.chunk);
    int64_t first = w.starts[chunk * rows];
    const int64_t last = w.starts[(chunk + 1) * rows];
    bool good = true;
    if constexpr (std::is_same<Place, uint16_t>::value) {
      if (kernels.place_taps != nullptr && table.of_tap.size() <= kPlacedTaps) {
        first += kernels.place_taps({w.taps + first, last - first, channels, static_cast<int>(table.of_tap.size()),
                                     table.of_tap.data(), table.per_channel},
                                    places.get() + first, &good);
      }
    }
    good &= place_chunk(w.taps + first, last - first, channels, table, places.get() + first);
    if (!good) {
      throw std::runtime_error("sparse_conv2d: taps must point into their chunk of channels and into the kernel");
    }
  }
  std::fill_n(places.get() + w.starts[chunks * rows], kPlacesAhead, Place{0});
  return places;
}

// How the work is shared among threads.
struct Division {
  int64_t pieces;  // tiles or regions
  int64_t parts;   // of the rows of blocks
  const Parallel* parallel;
};

// Runs every part of every piece, each with memory of its thread.
template <typename Element, typename AnyJob, typename Run>
void run_parts(const AnyJob& job, const Division& division, const Run& run) {
  const int64_t block_rows = job.problem.block_row_count(), parts = division.parts;
  (*division.parallel)(division.pieces* parts, [&](int64_t task) {
    static thread_local Arena arena;
    const int64_t part = task % parts;
    const int64_t first = block_rows * part / parts, last = block_rows * (part + 1) / parts;
    Cursor count(nullptr);
    lay_out<Element>(count, job, last - first);
    Cursor cursor(arena.reserve(count.used()));
    run(job, task / parts, first, last, lay_out<Element>(cursor, job, last - first));
  });
}

}  // namespace

template <typename Element>
void convolve(const Problem<Element>& problem, Path path, int threads, const Parallel& parallel) {
  const ConvShape& s = problem.shape;
  if (s.batch * s.out_channels * s.out_height() * s.out_width() == 0) {
    return;
  }
  const Kernels<Element> kernels = kernels_of<Element>(path);
  if (kernels.run_region != nullptr && problem.weights.block_rows % kRegionRows == 0) {
    RegionJob<Element> job{problem, make_regions(s, kernels.lanes, problem.weights.chunk), nullptr};
    const Regions& r = job.regions;
    const auto places = place_taps(problem, tap_places(s, r.tap_elements, r.channel_elements()), kernels);
    job.offsets = places.get();
    run_parts<Element>(job, {r.count(), split_rows(problem, r.count(), r.pixels(), threads), &parallel},
                       kernels.run_region);
    return;
  }
  const double blocks = problem.weights.starts[problem.chunk_count() * problem.block_row_count()];
  const TilingOptions options{kernels.lanes, kernels.max_rows, problem.weights.chunk, kernels.runs,
                              blocks / static_cast<double>(problem.block_row_count())};
  Job<Element> job{problem, make_tiling(s, options), nullptr};
  const Tiling& t = job.tiling;
  const auto places = place_taps(problem, tap_places(s, t.tap_vectors, t.channel_vectors), kernels);
  job.offsets = places.get();
  run_parts<Element>(job, {t.tiles, split_rows(problem, t.tiles, int64_t{t.rows} * t.lanes, threads), &parallel},
                     kernels.run_tile);
}

template void convolve(const Problem<float>&, Path, int, const Parallel&);
template void convolve(const Problem<double>&, Path, int, const Parallel&);
template void convolve(const Problem<int32_t>&, Path, int, const Parallel&);

}  // namespace sparse
}  // namespace yhw
