// SPDX-License-Identifier: Apache-2.0
// What nvcc and its runtime give a kernel, for g++: keywords, built-in variables, barriers, warp functions, launches.
// Only what the kernels use; anything else does not compile.
#ifndef YHW_CUDA_EMULATION_RUNTIME_H_
#define YHW_CUDA_EMULATION_RUNTIME_H_

#include <cstdlib>
#include <mutex>
#include <numeric>
#include <type_traits>

#include "block.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict
#define __align__(bytes) alignas(bytes)
// The threads of a block share it, and blocks run one after the other.
#define __shared__ static

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned vx = 1, unsigned vy = 1, unsigned vz = 1) : x(vx), y(vy), z(vz) {}
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

// The scheduler sets them before a thread starts or continues.
inline uint3 threadIdx{}, blockIdx{};
inline dim3 blockDim{}, gridDim{};
constexpr int warpSize = 32;

namespace yhw {
namespace emulation {

// Limits of every device from sm_75 on.
constexpr size_t kMaxSharedBytes = size_t{64} << 10;
constexpr unsigned kMaxGridYZ = 65535;

struct State {
  std::mutex busy;  // one launch at a time: built-in and shared variables are static
  uint64_t seed = 0;
  uint64_t launches = 0;
  unsigned char* shared = nullptr;
  size_t shared_bytes = 0;
};
inline State& state() {
  static State instance;
  return instance;
}

// Memory of exactly this size, so that a sanitizer sees the first byte beyond it.
class SharedMemory {
 public:
  explicit SharedMemory(size_t bytes)
      : bytes_(bytes), data_(static_cast<unsigned char*>(std::aligned_alloc(16, (bytes + 15) / 16 * 16)), std::free) {
    state().shared = data_.get();
    state().shared_bytes = bytes;
  }
  // What a block before has left must not be read.
  void poison() { std::memset(data_.get(), 0xA5, bytes_); }

 private:
  size_t bytes_;
  std::unique_ptr<unsigned char, decltype(&std::free)> data_;
};

inline void check_launch(const dim3& grid, unsigned threads, size_t shared_bytes) {
  const bool legal = grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x <= 0x7fffffffU && grid.y <= kMaxGridYZ &&
                     grid.z <= kMaxGridYZ && threads > 0 && threads <= kMaxThreads && shared_bytes <= kMaxSharedBytes;
  if (!legal) {
    throw std::runtime_error("CUDA emulation: illegal launch: grid " + std::to_string(grid.x) + " x " +
                             std::to_string(grid.y) + " x " + std::to_string(grid.z) + ", " + std::to_string(threads) +
                             " threads, " + std::to_string(shared_bytes) + " bytes of shared memory");
  }
}

// Runs `body` for every thread of every block; the order of the blocks and of the threads comes from the seed.
inline void launch(const dim3& grid, unsigned threads, size_t shared_bytes, const std::function<void()>& body) {
  check_launch(grid, threads, shared_bytes);
  const std::lock_guard<std::mutex> lock(state().busy);
  const uint64_t seed = state().seed;
  ++state().launches;
  gridDim = grid;
  blockDim = dim3(threads);
  SharedMemory shared(shared_bytes);
  Block block(seed);
  const uint64_t count = uint64_t{grid.x} * grid.y * grid.z;
  // A step that shares no factor with the count visits every block.
  uint64_t step = seed <= 1 ? 1 : seed * 7919 % count;
  while (std::gcd(step, count) != 1) {
    ++step;
  }
  uint64_t at = 0;
  for (uint64_t i = 0; i < count; ++i, at = (at + step) % count) {
    const uint64_t index = seed == 1 ? count - 1 - at : at;
    const uint3 where{static_cast<unsigned>(index % grid.x), static_cast<unsigned>(index / grid.x % grid.y),
                      static_cast<unsigned>(index / grid.x / grid.y)};
    shared.poison();
    block.run(threads, body, [&](unsigned thread) {
      blockIdx = where;
      threadIdx = uint3{thread, 0, 0};
    });
  }
}

// Evaluates evaluate(Part* const parts[32], mask) once, when all lanes of the mask have brought their part.
template <typename Part, typename Evaluate>
void warp_together(unsigned mask, Part& part, Evaluate, const Site& site) {
  static_assert(std::is_empty<Evaluate>::value, "a function without state");
  const WarpCall::Evaluate call = [](void* const raw[kWarpSize], unsigned lanes) {
    Part* parts[kWarpSize];
    for (unsigned i = 0; i < kWarpSize; ++i) {
      parts[i] = static_cast<Part*>(raw[i]);
    }
    Evaluate{}(parts, lanes);
  };
  Block::running_block()->call_warp({mask, site, call, &part});
}

// Calls body(lane) for the lanes of the mask.
template <typename Body>
void for_lanes(unsigned mask, const Body& body) {
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    if (mask >> lane & 1) {
      body(lane);
    }
  }
}

template <typename T>
struct Shuffle {
  T value;
  int source;  // lane
  T result;
};

template <typename T>
T shuffle(unsigned mask, T value, int source, const Site& site) {
  static_assert(std::is_trivially_copyable<T>::value, "");
  Shuffle<T> part{value, source, value};
  const auto exchange = [](Shuffle<T>* const parts[kWarpSize], unsigned lanes) {
    for_lanes(lanes, [&](unsigned lane) {
      const Shuffle<T>* from = parts[parts[lane]->source];
      // A lane outside of the mask has no value: poison, as on a device anything may come.
      from ? void(parts[lane]->result = from->value) : void(std::memset(&parts[lane]->result, 0xA5, sizeof(T)));
    });
  };
  warp_together(mask, part, exchange, site);
  return part.result;
}

struct Vote {
  bool predicate;
  unsigned ballot;
};

inline unsigned vote(unsigned mask, bool predicate, const Site& site) {
  Vote part{predicate, 0};
  const auto count = [](Vote* const parts[kWarpSize], unsigned lanes) {
    unsigned ballot = 0;
    for_lanes(lanes, [&](unsigned lane) { ballot |= static_cast<unsigned>(parts[lane]->predicate) << lane; });
    for_lanes(lanes, [&](unsigned lane) { parts[lane]->ballot = ballot; });
  };
  warp_together(mask, part, count, site);
  return part.ballot;
}

inline int lane_id() { return static_cast<int>(threadIdx.x % kWarpSize); }

}  // namespace emulation
}  // namespace yhw

// Last parameters of a function that is to know where it is called.
#define YHW_CALL_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(YHW_CALL_SITE) { yhw::emulation::Block::running_block()->wait_for_block({file, line}); }

inline void __syncwarp(unsigned mask = 0xffffffffU, YHW_CALL_SITE) { yhw::emulation::vote(mask, true, {file, line}); }

[[noreturn]] inline void __trap(YHW_CALL_SITE) { yhw::emulation::Block::running_block()->trap({file, line}); }

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, YHW_CALL_SITE) {
  const int lane = yhw::emulation::lane_id();
  return yhw::emulation::shuffle(mask, value, lane / width * width + (source & (width - 1)), {file, line});
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, YHW_CALL_SITE) {
  const int lane = yhw::emulation::lane_id(), source = lane ^ bits;
  return yhw::emulation::shuffle(mask, value, source / width <= lane / width ? source : lane, {file, line});
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, YHW_CALL_SITE) {
  const int lane = yhw::emulation::lane_id(), source = lane + static_cast<int>(delta);
  return yhw::emulation::shuffle(mask, value, source / width == lane / width ? source : lane, {file, line});
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, YHW_CALL_SITE) {
  const int lane = yhw::emulation::lane_id(), source = lane - static_cast<int>(delta);
  return yhw::emulation::shuffle(mask, value, source >= lane / width * width ? source : lane, {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int predicate, YHW_CALL_SITE) {
  return yhw::emulation::vote(mask, predicate != 0, {file, line});
}
inline int __any_sync(unsigned mask, int predicate, YHW_CALL_SITE) {
  return yhw::emulation::vote(mask, predicate != 0, {file, line}) != 0;
}
inline int __all_sync(unsigned mask, int predicate, YHW_CALL_SITE) {
  return yhw::emulation::vote(mask, predicate != 0, {file, line}) == mask;
}

template <typename T>
T __ldg(const T* address) {
  return *address;
}

#undef YHW_CALL_SITE

#endif  // YHW_CUDA_EMULATION_RUNTIME_H_
