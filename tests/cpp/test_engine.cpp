// SPDX-License-Identifier: Apache-2.0
// The engine as a C++ library: every path and thread count against plain loops.
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"
#include "engine/engine.h"

namespace {

using yhw::Code;
using yhw::Engine;
using yhw::Requantiser;
using yhw::Shape;
using yhw::Window;

const yhw::Format kInt8{8, true};

// A small generator of our own, so that every platform sees the same numbers.
class Numbers {
 public:
  int next(int lo, int hi) {
    state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
    return lo + static_cast<int>((state_ >> 33) % static_cast<uint64_t>(hi - lo + 1));
  }

 private:
  uint64_t state_ = 1;
};

size_t count(Shape s) { return static_cast<size_t>(s.c) * static_cast<size_t>(s.h) * static_cast<size_t>(s.w); }

std::vector<Code> random_map(Numbers& numbers, Shape shape) {
  std::vector<Code> codes(count(shape));
  for (Code& code : codes) {
    code = static_cast<Code>(numbers.next(-128, 127));
  }
  return codes;
}

Code at(const std::vector<Code>& map, Shape s, int c, int y, int x) {
  if (y < 0 || x < 0 || y >= s.h || x >= s.w) {
    return 0;
  }
  return map[(static_cast<size_t>(c) * static_cast<size_t>(s.h) + static_cast<size_t>(y)) * static_cast<size_t>(s.w) +
             static_cast<size_t>(x)];
}

// 8-bit output, leaky slope 51 / 2^9, half_up, saturate.
Requantiser leaky(int channels, int first_shift) {
  Requantiser r;
  r.params = {1, 51, 9, -128, 127, 8, -128, 127};
  for (int c = 0; c < channels; ++c) {
    r.shift.push_back(first_shift + c % 3);
  }
  return r;
}

// floor(v / 2^s + 1/2) with division, saturated.
Code code_of(int64_t v, int s) {
  const int64_t unit = int64_t{1} << s, doubled = 2 * v + unit;
  const int64_t code = doubled >= 0 ? doubled / (2 * unit) : -((-doubled + 2 * unit - 1) / (2 * unit));
  return static_cast<Code>(code < -128 ? -128 : (code > 127 ? 127 : code));
}

Code leaky_code(int64_t acc, int s) { return acc < 0 ? code_of(acc * 51, s + 9) : code_of(acc, s); }

struct ConvCase {
  Shape in, out;
  Window window;
  int groups;
};

void check_conv(const ConvCase& test, const std::string& path, int threads) {
  Numbers numbers;
  const int in_group = test.in.c / test.groups, out_group = test.out.c / test.groups;
  const Window& w = test.window;
  const auto input = random_map(numbers, test.in);
  std::vector<int16_t> weight(static_cast<size_t>(test.out.c * in_group * w.taps()));
  std::vector<int32_t> bias(static_cast<size_t>(test.out.c));
  for (auto& v : weight) v = static_cast<int16_t>(numbers.next(-128, 127));
  for (auto& v : bias) v = numbers.next(-4000, 4000);

  Engine engine(path, threads, test.in, kInt8);
  const auto requant = leaky(test.out.c, 7);
  const int y = engine.conv(0, test.out, kInt8, {w, test.groups, weight, bias}, requant);
  engine.build({y});
  engine.run(input.data());
  std::vector<Code> got(count(test.out));
  engine.read(y, got.data());

  for (int k = 0; k < test.out.c; ++k) {
    for (int oy = 0; oy < test.out.h; ++oy) {
      for (int ox = 0; ox < test.out.w; ++ox) {
        int64_t acc = bias[static_cast<size_t>(k)];
        size_t next = static_cast<size_t>(k * in_group * w.taps());
        for (int c = 0; c < in_group; ++c) {
          for (int r = 0; r < w.size_y; ++r) {
            for (int s = 0; s < w.size_x; ++s) {
              acc += int64_t{weight[next++]} * at(input, test.in, k / out_group * in_group + c,
                                                  oy * w.stride_y - w.pad_y + r * w.dilation_y,
                                                  ox * w.stride_x - w.pad_x + s * w.dilation_x);
            }
          }
        }
        const Code want = leaky_code(acc, requant.shift[static_cast<size_t>(k)]);
        CHECK_EQUAL(at(got, test.out, k, oy, ox), want, (k * test.out.h + oy) * test.out.w + ox);
      }
    }
  }
}

void test_conv(const std::string& path, int threads) {
  const ConvCase cases[] = {
      {{3, 9, 11}, {17, 9, 11}, {3, 3, 1, 1, 1, 1, 1, 1}, 1},   // odd channels, more than one lane group
      {{16, 8, 8}, {32, 4, 4}, {3, 3, 2, 2, 1, 1, 1, 1}, 1},    // stride 2
      {{8, 6, 7}, {4, 6, 7}, {1, 1, 1, 1, 0, 0, 1, 1}, 1},      // 1x1
      {{6, 10, 10}, {9, 10, 10}, {3, 3, 1, 1, 2, 2, 2, 2}, 3},  // groups, dilation
      {{19, 7, 5}, {19, 7, 5}, {5, 5, 1, 1, 2, 4, 1, 2}, 19},   // depthwise, dilation
  };
  for (const auto& test : cases) {
    check_conv(test, path, threads);
  }
}

// maxpool 2x2 with stride 1, an addition with aligned inputs, and a concat of both.
void test_joins(const std::string& path, int threads) {
  Numbers numbers;
  const Shape shape{5, 6, 7}, joined{10, 6, 7};
  const auto input = random_map(numbers, shape);
  Engine engine(path, threads, shape, kInt8);
  const int pool = engine.maxpool(0, shape, {2, 2, 1, 1, 0, 0, 1, 1});
  Requantiser requant;
  requant.params = {1, 1, 0, -128, 127, 8, -128, 127};
  requant.shift.assign(5, 2);
  const int sum = engine.add({0, pool}, {0, 1}, kInt8, requant);
  const int both = engine.concat({pool, sum});
  engine.build({both});
  engine.run(input.data());
  std::vector<Code> got(count(joined));
  engine.read(both, got.data());

  for (int c = 0; c < shape.c; ++c) {
    for (int y = 0; y < shape.h; ++y) {
      for (int x = 0; x < shape.w; ++x) {
        Code best = at(input, shape, c, y, x);
        for (int r = 0; r < 2 && y + r < shape.h; ++r) {
          for (int s = 0; s < 2 && x + s < shape.w; ++s) {
            best = at(input, shape, c, y + r, x + s) > best ? at(input, shape, c, y + r, x + s) : best;
          }
        }
        CHECK_EQUAL(at(got, joined, c, y, x), best, y * shape.w + x);
        const Code want = code_of(at(input, shape, c, y, x) + 2 * best, 2);
        CHECK_EQUAL(at(got, joined, c + shape.c, y, x), want, y * shape.w + x);
      }
    }
  }
}

void test_bad_arguments() {
  CHECK_THROWS(Engine("abacus", 1, Shape{1, 1, 1}, kInt8));
  CHECK_THROWS(Engine("auto", 1, Shape{0, 1, 1}, kInt8));
  Engine engine("auto", 1, {4, 4, 4}, kInt8);
  CHECK_THROWS(engine.slice(0, 3, 5));
  CHECK_THROWS(engine.slice(7, 0, 1));
  CHECK_THROWS(engine.permute(0, {4, 4, 4}, std::vector<int32_t>(64, 64)));
  CHECK_THROWS(engine.mul(0, 0, kInt8, leaky(3, 0)));
}

}  // namespace

int main() {
  for (const auto& path : Engine::paths()) {
    for (int threads : {1, 3}) {
      test_conv(path, threads);
      test_joins(path, threads);
    }
  }
  test_bad_arguments();
  return check::result();
}
