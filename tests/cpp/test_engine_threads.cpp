// SPDX-License-Identifier: Apache-2.0
// Engines with several threads, and several engines at once: the codes of one thread, and no data race that the thread
// sanitizer could see (-DYOLO_HW_SANITIZE=thread).
#include <cstdint>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "check.h"
#include "engine/engine.h"
#include "engine/thread_pool.h"

namespace {

using yhw::Code;
using yhw::Engine;
using yhw::Shape;

const yhw::Format kInt8{8, true}, kInt16{16, true};
// Odd channels: a vector of one thread's map reaches into what another one writes, if anything does.
const Shape kInput{3, 13, 11}, kMap{37, 13, 11}, kPart{16, 13, 11};
constexpr int kRuns = 4;

// Numbers in [-range, range] from a generator of our own.
std::vector<int> numbers(size_t count, int range, uint64_t seed) {
  std::vector<int> result(count);
  for (int& value : result) {
    seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
    value = static_cast<int>((seed >> 33) % static_cast<uint64_t>(2 * range + 1)) - range;
  }
  return result;
}

yhw::Requantiser requant(int channels, int shift, yhw::Format format, int acc_bits = 32) {
  yhw::Requantiser r;
  const int64_t hi = (int64_t{1} << (format.bits - 1)) - 1;
  r.params = {1, 51, 9, -hi - 1, hi, format.bits, -hi - 1, hi};
  r.shift.assign(static_cast<size_t>(channels), shift);
  r.acc_bits = acc_bits;
  return r;
}

yhw::ConvParams conv(int inputs, int outputs, int side, int groups) {
  const size_t size = static_cast<size_t>(outputs) * static_cast<size_t>(inputs / groups * side * side);
  const auto weight = numbers(size, 127, size), bias = numbers(static_cast<size_t>(outputs), 4000, size + 1);
  return {{side, side, 1, 1, side / 2, side / 2, 1, 1}, groups, {weight.begin(), weight.end()}, bias};
}

// Every kind of operation that shares its work among threads.
struct Network {
  Engine engine;
  std::vector<int> outputs;

  Network(const std::string& path, int threads) : engine(path, threads, kInput, kInt8) {
    const int first = engine.conv(0, kMap, kInt8, conv(3, 37, 3, 1), requant(37, 9, kInt8));
    const int deep = engine.conv(first, kMap, kInt8, conv(37, 37, 3, 37), requant(37, 8, kInt8));
    const int sum = engine.add({first, deep}, {0, 1}, kInt8, requant(37, 1, kInt8));
    const int pool = engine.maxpool(sum, kMap, {3, 3, 1, 1, 1, 1, 1, 1});
    const int mean = engine.avgpool(pool, kInt8, requant(37, 8, kInt8));
    const int scaled = engine.mul(pool, mean, kInt8, requant(37, 5, kInt8));
    const int left = engine.conv(scaled, kPart, kInt8, conv(37, 16, 1, 1), requant(16, 9, kInt8));
    const int right = engine.conv(scaled, kPart, kInt8, conv(37, 16, 5, 1), requant(16, 12, kInt8));
    const int both = engine.concat({left, right});
    const int large = engine.upsample(engine.slice(both, 5, 27), 2);
    const int wide = engine.conv(both, kMap, kInt16, conv(32, 37, 3, 1), requant(37, 3, kInt16, 40));
    const int words = engine.conv(wide, kPart, kInt8, conv(37, 16, 3, 1), requant(16, 18, kInt8));
    outputs = {both, large, wide, words};
    engine.build(outputs);
  }

  std::vector<std::vector<Code>> run(const std::vector<Code>& image) {
    engine.run(image.data());
    std::vector<std::vector<Code>> result;
    for (const int output : outputs) {
      const Shape s = engine.shape(output);
      result.emplace_back(static_cast<size_t>(s.c) * static_cast<size_t>(s.h) * static_cast<size_t>(s.w));
      engine.read(output, result.back().data());
    }
    return result;
  }
};

std::vector<Code> image_of(uint64_t seed) {
  const auto values = numbers(static_cast<size_t>(kInput.c * kInput.h * kInput.w), 127, seed);
  return {values.begin(), values.end()};
}

using Results = std::vector<std::vector<std::vector<Code>>>;

Results run_all(const std::string& path, int threads) {
  Network network(path, threads);
  Results results;
  for (int i = 0; i < kRuns; ++i) {
    results.push_back(network.run(image_of(static_cast<uint64_t>(i))));
  }
  return results;
}

void test_threads(const std::string& path) {
  const Results want = run_all(path, 1);
  CHECK_EQUAL(want[0] == want[1], false, 0);
  for (const int threads : {2, 4}) {
    CHECK_EQUAL(run_all(path, threads) == want, true, threads);
  }
  Results first, second;
  std::thread other([&] { first = run_all(path, 3); });
  second = run_all(path, 2);
  other.join();
  CHECK_EQUAL(first == want, true, 0);
  CHECK_EQUAL(second == want, true, 0);
}

// Many short loops, so that threads meet every moment of a loop's beginning and end.
void test_short_loops() {
  yhw::ThreadPool pool(4);
  for (int round = 0; round < 2000; ++round) {
    const int count = round % 7;
    std::vector<int> seen(static_cast<size_t>(count));
    pool.parallel_for(count, [&](int, int i) { seen[static_cast<size_t>(i)] += i + 1; });
    for (int i = 0; i < count; ++i) {
      CHECK_EQUAL(seen[static_cast<size_t>(i)], i + 1, round);
    }
  }
}

void test_exceptions() {
  yhw::ThreadPool pool(3);
  for (int round = 0; round < 50; ++round) {
    CHECK_THROWS(pool.parallel_for(20, [](int, int i) {
      if (i % 5 == 0) {
        throw std::invalid_argument("odd");
      }
    }));
  }
}

// Pools that end while their threads poll, sleep, or have not begun.
void test_short_lives() {
  for (int round = 0; round < 50; ++round) {
    yhw::ThreadPool pool(3);
    int sum[8] = {};
    if (round % 2 == 0) {
      pool.parallel_for(8, [&](int, int i) { sum[i] = i; });
      CHECK_EQUAL(sum[7], 7, round);
    }
  }
}

}  // namespace

int main() {
  for (const auto& path : Engine::paths()) {
    test_threads(path);
  }
  test_short_loops();
  test_exceptions();
  test_short_lives();
  return check::result();
}
