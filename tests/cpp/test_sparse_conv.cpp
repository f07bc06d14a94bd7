// SPDX-License-Identifier: Apache-2.0
// The sparse convolution without torch: random layers on every path against a plain loop with the
// same chain of fused multiply-adds, for equality.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "isa.h"
#include "sparse/conv.h"

using namespace yhw::sparse;

namespace {

struct Packed {
  std::vector<float> values;
  std::vector<int16_t> taps;
  std::vector<int32_t> starts;
};

// weight: [K, C, taps]; a block is kept where one of its weights is not zero.
Packed pack(const std::vector<float>& weight, const ConvShape& s, int32_t block_rows, int32_t chunk) {
  Packed p;
  const int64_t channels = s.group_channels(), taps = s.kernel_size();
  p.starts.push_back(0);
  for (int64_t first = 0; first < channels; first += chunk) {
    for (int64_t row = 0; row < s.out_channels; row += block_rows) {
      for (int64_t c = first; c < channels && c < first + chunk; ++c) {
        for (int64_t tap = 0; tap < taps; ++tap) {
          std::vector<float> block;
          bool kept = false;
          for (int64_t k = row; k < row + block_rows; ++k) {
            const size_t at = static_cast<size_t>((k * channels + c) * taps + tap);
            block.push_back(k < s.out_channels ? weight[at] : 0.0f);
            kept |= block.back() != 0;
          }
          if (kept) {
            p.values.insert(p.values.end(), block.begin(), block.end());
            p.taps.push_back(static_cast<int16_t>(((c - first) << tap_bits(taps)) + tap));
          }
        }
      }
      p.starts.push_back(static_cast<int32_t>(p.taps.size()));
    }
  }
  return p;
}

// One output, in the order of the contract; zeros of the padding are multiplied as well.
float plain(const Problem<float>& p, const std::vector<float>& weight, int64_t n, int64_t k, int64_t y, int64_t x) {
  const ConvShape& s = p.shape;
  const int64_t channels = s.group_channels(), group = k / (s.out_channels / s.groups);
  float sum = p.bias[k];
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t r = 0; r < s.kernel_h; ++r) {
      for (int64_t q = 0; q < s.kernel_w; ++q) {
        const float w = weight[static_cast<size_t>(((k * channels + c) * s.kernel_h + r) * s.kernel_w + q)];
        const int64_t iy = y * s.stride_h - s.pad_h + r * s.dilation_h;
        const int64_t ix = x * s.stride_w - s.pad_w + q * s.dilation_w;
        const bool inside = iy >= 0 && iy < s.height && ix >= 0 && ix < s.width;
        const int64_t at = ((n * s.in_channels + group * channels + c) * s.height + iy) * s.width + ix;
        if (w != 0) {
          sum = std::fma(w, inside ? p.x[at] : 0.0f, sum);
        }
      }
    }
  }
  return sum > 0 ? sum : sum * p.slope;
}

bool has(Path path) {
  return path == Path::kScalar || (path == Path::kAvx2 ? yhw::cpu_has_avx2() : yhw::cpu_has_avx512());
}

void run_here(int64_t tasks, const std::function<void(int64_t)>& body) {
  for (int64_t task = tasks; task-- > 0;) {  // any order will do
    body(task);
  }
}

int check_layer(std::mt19937& random, int index) {
  const auto pick = [&](int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random() % static_cast<uint32_t>(high - low + 1));
  };
  const int64_t groups = pick(1, 3), block_rows = pick(1, 2) == 1 ? 1 : pick(2, 17);
  ConvShape s{pick(1, 2), groups * pick(1, 9), pick(5, 30), pick(5, 30), groups * block_rows * pick(1, 3),
              pick(1, 3), pick(1, 3),          pick(1, 3),  pick(1, 3),  pick(0, 2),
              pick(0, 2), pick(1, 2),          pick(1, 2),  groups};
  const auto chunk = static_cast<int32_t>(pick(1, s.group_channels()));
  std::uniform_real_distribution<float> value(-1, 1);
  std::vector<float> weight(static_cast<size_t>(s.out_channels * s.group_channels() * s.kernel_size()));
  for (float& w : weight) {
    w = pick(0, 3) == 0 ? value(random) : 0.0f;
  }
  std::vector<float> x(static_cast<size_t>(s.batch * s.in_channels * s.height * s.width));
  std::vector<float> bias(static_cast<size_t>(s.out_channels));
  for (auto* numbers : {&x, &bias}) {
    for (float& v : *numbers) {
      v = value(random);
    }
  }
  const Packed packed = pack(weight, s, static_cast<int32_t>(block_rows), chunk);
  std::vector<float> y(static_cast<size_t>(s.batch * s.out_channels * s.out_height() * s.out_width()));
  const Weights<float> weights{packed.values.data(), packed.taps.data(), packed.starts.data(),
                               static_cast<int32_t>(block_rows), chunk};
  const Problem<float> problem{s, weights, Activation::kLeaky, 0.125f, x.data(), bias.data(), y.data()};
  for (const Path path : {Path::kScalar, Path::kAvx2, Path::kAvx512}) {
    if (!has(path)) {
      continue;
    }
    std::fill(y.begin(), y.end(), NAN);
    convolve(problem, path, static_cast<int>(pick(1, 4)), run_here);
    size_t at = 0;
    for (int64_t n = 0; n < s.batch; ++n) {
      for (int64_t k = 0; k < s.out_channels; ++k) {
        for (int64_t row = 0; row < s.out_height(); ++row) {
          for (int64_t column = 0; column < s.out_width(); ++column, ++at) {
            if (!(y[at] == plain(problem, weight, n, k, row, column))) {
              std::printf("layer %d, path %d: output %zu is %g\n", index, static_cast<int>(path), at, y[at]);
              return 1;
            }
          }
        }
      }
    }
  }
  return 0;
}

}  // namespace

int main() {
  std::mt19937 random(1);
  int failures = 0;
  for (int i = 0; i < 300; ++i) {
    failures += check_layer(random, i);
  }
  std::printf("%d failures\n", failures);
  return failures != 0;
}
