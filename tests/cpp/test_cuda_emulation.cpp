// SPDX-License-Identifier: Apache-2.0
// What the emulation of CUDA is worth: its functions mean what the programming guide and the PTX manual say, and
// kernels with a planted fault are caught.
#define YHW_EMULATE_CUDA
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "cuda/reduce.cuh"

#define CHECK(condition) CHECK_EQUAL((condition), true, 0)

namespace {

using yhw::kWholeWarp;

constexpr unsigned kThreads = 128;
constexpr uint64_t kSeeds = 12;

void with_seed(uint64_t seed, unsigned blocks, size_t shared, const std::function<void()>& kernel) {
  yhw::emulation::state().seed = seed;
  yhw::emulation::launch(dim3(blocks), kThreads, shared, kernel);
}

// The message of the error that a launch ends with, empty if there is none.
std::string error_of(uint64_t seed, const std::function<void()>& kernel) {
  try {
    with_seed(seed, 1, 64, kernel);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

// out[i] = sum over the block of in, by a tree in shared memory; the fault leaves out the barrier between its levels.
std::vector<uint32_t> tree_sum(uint64_t seed, const std::vector<uint32_t>& in, bool fault) {
  struct Shared {
    uint32_t values[kThreads];
  };
  std::vector<uint32_t> out(in.size() / kThreads);
  with_seed(seed, static_cast<unsigned>(out.size()), sizeof(Shared), [&] {
    auto& shared = yhw::shared_memory<Shared>();
    shared.values[threadIdx.x] = in[blockIdx.x * kThreads + threadIdx.x];
    for (unsigned half = kThreads / 2; half > 0; half /= 2) {
      if (!fault) {
        __syncthreads();
      }
      if (threadIdx.x < half) {
        shared.values[threadIdx.x] += shared.values[threadIdx.x + half];
      }
    }
    if (threadIdx.x == 0) {
      out[blockIdx.x] = shared.values[0];
    }
  });
  return out;
}

void missing_barriers_show() {
  std::vector<uint32_t> in(5 * kThreads), want(5);
  for (size_t i = 0; i < in.size(); ++i) {
    in[i] = static_cast<uint32_t>(i * i % 1009);
    want[i / kThreads] += in[i];
  }
  int wrong = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    CHECK(tree_sum(seed, in, false) == want);
    wrong += tree_sum(seed, in, true) != want;
  }
  CHECK(wrong >= static_cast<int>(kSeeds) - 1);  // descending order happens to be right
}

// A value handed from lane to lane through shared memory without __syncwarp, as was legal once.
void missing_warp_barriers_show() {
  int wrong = 0, wrong_with_barrier = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    for (const bool fault : {false, true}) {
      int bad = 0;
      with_seed(seed, 1, sizeof(int) * kThreads, [&] {
        auto& shared = yhw::shared_memory<int[kThreads]>();
        shared[threadIdx.x] = static_cast<int>(threadIdx.x);
        if (!fault) {
          __syncwarp();
        }
        bad += shared[threadIdx.x ^ 5] != static_cast<int>(threadIdx.x ^ 5);
      });
      (fault ? wrong : wrong_with_barrier) += bad > 0;
    }
  }
  CHECK(wrong == static_cast<int>(kSeeds));
  CHECK(wrong_with_barrier == 0);
}

void divergence_is_an_error() {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const std::string returned = error_of(seed, [] {
      if (threadIdx.x < 100) {
        __syncthreads();
      }
    });
    CHECK(contains(returned, "100 wait for the block") && contains(returned, "28 have returned"));
    CHECK(contains(returned, "test_cuda_emulation.cpp:"));
    const std::string two_barriers = error_of(seed, [] {
      if (threadIdx.x % 2 == 0) {
        __syncthreads();
      } else {
        __syncthreads();
      }
    });
    CHECK(contains(two_barriers, "divergent barrier"));
    const std::string lane_missing = error_of(seed, [] {
      if (threadIdx.x != 7) {
        __shfl_xor_sync(kWholeWarp, 1, 1);
      }
    });
    CHECK(contains(lane_missing, "31 for their warp"));
    const std::string masks = error_of(seed, [] { __syncwarp(threadIdx.x % 2 ? 0xffffffffU : 0x55555555U); });
    CHECK(contains(masks, "64 for their warp"));
    CHECK(contains(error_of(seed, [] { __syncwarp(1U << (threadIdx.x + 1) % 32); }), "not in its own mask"));
    CHECK(contains(error_of(seed, [] { __trap(); }), "trap at"));
  }
  CHECK(error_of(0, [] { __syncthreads(); }).empty());  // and the next launch is not harmed
}

void illegal_launches_are_errors() {
  const auto error = [](dim3 grid, unsigned threads, size_t shared) -> std::string {
    try {
      yhw::emulation::launch(grid, threads, shared, [] {});
    } catch (const std::runtime_error& e) {
      return e.what();
    }
    return "";
  };
  CHECK(error(dim3(1), 1024, 65536).empty());
  CHECK(contains(error(dim3(0), 32, 0), "illegal launch"));
  CHECK(contains(error(dim3(1, 65536), 32, 0), "illegal launch"));
  CHECK(contains(error(dim3(1), 1025, 0), "illegal launch"));
  CHECK(contains(error(dim3(1), 32, 65537), "illegal launch"));
  CHECK(contains(error_of(0, [] { yhw::shared_memory<char[65]>(); }), "trap"));
}

void warp_functions() {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    int bad = 0;
    with_seed(seed, 2, 0, [&] {
      const int lane = static_cast<int>(threadIdx.x % 32), id = static_cast<int>(threadIdx.x);
      bad += __shfl_sync(kWholeWarp, id, 3) != id - lane + 3;
      bad += __shfl_sync(kWholeWarp, id, 3, 8) != id - lane % 8 + 3;
      bad += __shfl_xor_sync(kWholeWarp, id, 17) != (id ^ 17);
      bad += __shfl_down_sync(kWholeWarp, id, 5) != (lane + 5 < 32 ? id + 5 : id);
      bad += __shfl_up_sync(kWholeWarp, id, 5) != (lane >= 5 ? id - 5 : id);
      bad += __ballot_sync(kWholeWarp, lane % 3 == 0) != 0x49249249U;
      if (lane < 16) {  // half a warp alone, in a loop, while the others do something else
        for (int i = 1; i < 4; ++i) {
          bad += __shfl_xor_sync(0xffffU, i * id, 1) != i * (id ^ 1);
        }
      } else {
        bad += __shfl_xor_sync(0xffff0000U, 1.5f * static_cast<float>(id), 2) != 1.5f * static_cast<float>(id ^ 2);
      }
      bad += __all_sync(kWholeWarp, 1) != 1;
      bad += __any_sync(kWholeWarp, 0) != 0;
    });
    CHECK(bad == 0);
  }
}

uint32_t pack(const int8_t* codes) {
  uint32_t word;
  std::memcpy(&word, codes, 4);
  return word;
}

// The matrix product with the fragments laid out from row-major matrices as the PTX manual tells.
template <bool kUnsigned>
void matrix_product(std::mt19937& random, bool extreme) {
  int8_t a[16][32], b[8][32];  // b by columns
  for (auto& row : a) {
    for (auto& code : row) {
      code = static_cast<int8_t>(extreme ? -128 : random() % 256);
    }
  }
  for (auto& column : b) {
    for (auto& code : column) {
      code = static_cast<int8_t>(extreme ? -128 : random() % 256);
    }
  }
  int got[16][8];
  yhw::emulation::launch(dim3(1), 32, 0, [&] {
    const unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;
    const uint32_t fa[4] = {pack(&a[g][4 * t]), pack(&a[g + 8][4 * t]), pack(&a[g][16 + 4 * t]),
                            pack(&a[g + 8][16 + 4 * t])};
    const uint32_t fb[2] = {pack(&b[g][4 * t]), pack(&b[g][16 + 4 * t])};
    int acc[4] = {1, 2, 3, 4};
    yhw::mma_16x8x32<kUnsigned>(acc, fa, fb);
    for (unsigned i = 0; i < 4; ++i) {
      got[g + i / 2 * 8][2 * t + i % 2] = acc[i] - static_cast<int>(i) - 1;
    }
  });
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      int want = 0;
      for (int k = 0; k < 32; ++k) {
        want += (kUnsigned ? static_cast<uint8_t>(a[row][k]) : a[row][k]) * b[column][k];
      }
      CHECK(got[row][column] == want);
    }
  }
}

// Bytes that arrive too late, or too early, where a kernel does not wait for its copies.
void asynchronous_copies() {
  uint32_t from[kThreads];
  for (uint32_t i = 0; i < kThreads; ++i) {
    from[i] = 0x01020304U * (i + 1) % 0x7f7f7f7fU;
  }
  int unseen = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    int bad = 0, stale = 0;
    with_seed(seed, 1, sizeof(from) * 2, [&] {
      auto& shared = yhw::shared_memory<uint32_t[2][kThreads]>();
      const unsigned i = threadIdx.x;
      yhw::copy_async<4>(&shared[0][i], &from[i], 4);
      yhw::commit_copies();
      yhw::copy_async<4>(&shared[1][i], &from[i], 3);
      yhw::commit_copies();
      yhw::wait_for_copies<1>();
      bad += shared[0][i] != from[i];
      stale += shared[1][i] != (from[i] & 0xffffffU);
      yhw::wait_for_copies<0>();
      bad += shared[1][i] != (from[i] & 0xffffffU);
    });
    CHECK(bad == 0);
    unseen += stale > 0;
  }
  CHECK(unseen == static_cast<int>(kSeeds) - 1);  // seed 0 copies at once
  CHECK(contains(error_of(0, [&] { yhw::copy_async<4>(&yhw::shared_memory<char[8]>()[1], from, 4); }), "trap"));
}

// sum_lanes adds in the order of a loop over an array, in every bit, twice in a row.
template <int kLanes>
void sums_have_one_order() {
  std::mt19937 random(kLanes);
  int differs = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    float values[kLanes], lanes[kLanes], in_order = 0;
    for (int i = 0; i < kLanes; ++i) {
      lanes[i] = values[i] = static_cast<float>(random()) * (i % 3 ? 1e-9f : -1e-6f);
      in_order += values[i];
    }
    for (int half = kLanes / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) {
        lanes[i] += lanes[i + half];
      }
    }
    int bad = 0;
    yhw::emulation::state().seed = seed;
    yhw::emulation::launch(dim3(2), kLanes, 0, [&] {
      const float value = values[threadIdx.x], sum = yhw::sum_lanes<kLanes>(value);
      bad += std::memcmp(&sum, &lanes[0], sizeof(sum)) != 0;
      bad += yhw::sum_lanes<kLanes>(2 * value) != 2 * sum;
    });
    CHECK(bad == 0);
    differs += in_order != lanes[0];
  }
  CHECK(differs > 3);  // the order matters for these values
}

}  // namespace

int main() {
  missing_barriers_show();
  missing_warp_barriers_show();
  divergence_is_an_error();
  illegal_launches_are_errors();
  warp_functions();
  std::mt19937 random(1);
  for (int i = 0; i < 20; ++i) {
    matrix_product<true>(random, i == 0);
    matrix_product<false>(random, i == 0);
  }
  asynchronous_copies();
  sums_have_one_order<32>();
  sums_have_one_order<64>();
  sums_have_one_order<256>();
  return check::result();
}
