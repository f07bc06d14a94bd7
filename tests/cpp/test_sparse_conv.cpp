// SPDX-License-Identifier: Apache-2.0
// The sparse convolution without torch: random layers on every path against a plain loop, floats with the same chain of
// fused multiply-adds, for equality.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "isa.h"
#include "sparse/quads.h"

using namespace yhw::sparse;

namespace {

template <typename Element>
struct Packed {
  std::vector<Element> values;
  std::vector<int16_t> taps;
  std::vector<int32_t> starts;
};

// weight: [K, C, taps]; a block is kept where one of its weights is not zero.
template <typename Element>
Packed<Element> pack(const std::vector<Element>& weight, const ConvShape& s, int32_t block_rows, int32_t chunk) {
  Packed<Element> p;
  const int64_t channels = s.group_channels(), taps = s.kernel_size();
  p.starts.push_back(0);
  for (int64_t first = 0; first < channels; first += chunk) {
    for (int64_t row = 0; row < s.out_channels; row += block_rows) {
      for (int64_t c = first; c < channels && c < first + chunk; ++c) {
        for (int64_t tap = 0; tap < taps; ++tap) {
          std::vector<Element> block;
          bool kept = false;
          for (int64_t k = row; k < row + block_rows; ++k) {
            const size_t at = static_cast<size_t>((k * channels + c) * taps + tap);
            block.push_back(k < s.out_channels ? weight[at] : Element{0});
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
  switch (path) {
    case Path::kAvx2:
      return yhw::cpu_has_avx2();
    case Path::kAvx512:
      return yhw::cpu_has_avx512();
    case Path::kAvxVnni:
      return yhw::cpu_has_avxvnni();
    case Path::kAvx512Vnni:
      return yhw::cpu_has_avx512vnni();
    default:
      return true;
  }
}

void run_here(int64_t tasks, const std::function<void(int64_t)>& body) {
  for (int64_t task = tasks; task-- > 0;) {  // any order will do
    body(task);
  }
}

class Pick {
 public:
  explicit Pick(std::mt19937& random) : random_(random) {}
  int64_t operator()(int64_t low, int64_t high) const {
    return low + static_cast<int64_t>(random_() % static_cast<uint32_t>(high - low + 1));
  }

 private:
  std::mt19937& random_;
};

// One, the lengths with kernels of their own, and others.
int64_t random_block_rows(const Pick& pick) {
  switch (pick(0, 3)) {
    case 0:
      return 1;
    case 1:
      return 16;
    case 2:
      return 32;
    default:
      return pick(2, 17);
  }
}

ConvShape random_shape(const Pick& pick, int64_t block_rows) {
  const int64_t groups = pick(1, 3);
  return {pick(1, 2), groups * pick(1, 9), pick(5, 30), pick(5, 30), groups * block_rows * pick(1, 3),
          pick(1, 3), pick(1, 3),          pick(1, 3),  pick(1, 3),  pick(0, 2),
          pick(0, 2), pick(1, 2),          pick(1, 2),  groups};
}

int check_shape(std::mt19937& random, const ConvShape& s, int64_t block_rows, int32_t chunk, int index) {
  const Pick pick(random);
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
  const Packed<float> packed = pack(weight, s, static_cast<int32_t>(block_rows), chunk);
  std::vector<float> y(static_cast<size_t>(s.batch * s.out_channels * s.out_height() * s.out_width()));
  const Weights<float> weights{packed.values.data(), packed.taps.data(), packed.starts.data(),
                               static_cast<int32_t>(block_rows), chunk};
  const Problem<float> problem{s, weights, Activation::kLeaky, 0.125f, 0.0f, x.data(), bias.data(), y.data()};
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

int check_layer(std::mt19937& random, int index) {
  const Pick pick(random);
  const int64_t block_rows = random_block_rows(pick);
  const ConvShape s = random_shape(pick, block_rows);
  return check_shape(random, s, block_rows, static_cast<int32_t>(pick(1, s.group_channels())), index);
}

// Layers of one output channel per block whose tiles are runs where the instruction set has them.
int check_runs(std::mt19937& random) {
  const ConvShape shapes[] = {
      {1, 40, 26, 26, 32, 3, 3, 1, 1, 1, 1, 1, 1, 1}, {2, 40, 27, 27, 24, 3, 3, 1, 1, 1, 1, 1, 1, 1},
      {2, 24, 19, 21, 12, 5, 5, 1, 1, 2, 2, 1, 1, 2}, {1, 64, 9, 10, 64, 3, 3, 1, 1, 2, 2, 2, 2, 1},
      {1, 64, 11, 9, 64, 2, 3, 1, 1, 0, 2, 1, 1, 1},  {1, 64, 17, 27, 128, 3, 1, 1, 1, 1, 0, 3, 1, 1}};
  for (const ConvShape& s : shapes) {
    const double kept_taps = static_cast<double>(s.group_channels() * s.kernel_size()) / 4;
    if (!make_tiling(s, {16, 14, 8, true, kept_taps}).runs) {
      std::printf("%d x %d: not a tiling of runs\n", static_cast<int>(s.height), static_cast<int>(s.width));
      return 1;
    }
    if (check_shape(random, s, 1, 8, -1) != 0) {
      return 1;
    }
  }
  return 0;
}

// One sum of codes; outside of the map is code 0.
int32_t plain_codes(const CodeProblem& p, const std::vector<int8_t>& weight, int64_t n, int64_t k, int64_t y,
                    int64_t x) {
  const ConvShape& s = p.shape;
  const int64_t channels = s.group_channels(), group = k / (s.out_channels / s.groups);
  int64_t sum = p.bias[k];
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t r = 0; r < s.kernel_h; ++r) {
      for (int64_t q = 0; q < s.kernel_w; ++q) {
        const int64_t iy = y * s.stride_h - s.pad_h + r * s.dilation_h;
        const int64_t ix = x * s.stride_w - s.pad_w + q * s.dilation_w;
        if (iy >= 0 && iy < s.height && ix >= 0 && ix < s.width) {
          const uint8_t code = p.x[((n * s.in_channels + group * channels + c) * s.height + iy) * s.width + ix];
          const int value = p.is_signed ? static_cast<int8_t>(code) : code;
          sum += value * weight[static_cast<size_t>(((k * channels + c) * s.kernel_h + r) * s.kernel_w + q)];
        }
      }
    }
  }
  return static_cast<int32_t>(sum);
}

// weight: [K, C, taps] -> [K, quads, taps], four int8 to a word.
std::vector<int32_t> weight_quads(const std::vector<int8_t>& weight, const ConvShape& s) {
  const int64_t channels = s.group_channels(), quads = quads_of(channels), taps = s.kernel_size();
  std::vector<int32_t> packed(static_cast<size_t>(s.out_channels * quads * taps));
  for (int64_t k = 0; k < s.out_channels; ++k) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t tap = 0; tap < taps; ++tap) {
        const auto byte = static_cast<uint8_t>(weight[static_cast<size_t>((k * channels + c) * taps + tap)]);
        int32_t& quad = packed[static_cast<size_t>((k * quads + c / kQuad) * taps + tap)];
        quad = static_cast<int32_t>(static_cast<uint32_t>(quad) | uint32_t{byte} << (8 * (c % kQuad)));
      }
    }
  }
  return packed;
}

int check_codes(std::mt19937& random, int index) {
  const Pick pick(random);
  const int64_t block_rows = random_block_rows(pick);
  const ConvShape s = random_shape(pick, block_rows);
  const auto chunk = static_cast<int32_t>(pick(1, quads_of(s.group_channels())));
  std::vector<int8_t> weight(static_cast<size_t>(s.out_channels * s.group_channels() * s.kernel_size()));
  for (int8_t& w : weight) {
    w = static_cast<int8_t>(pick(0, 3) == 0 ? pick(-128, 127) : 0);
  }
  std::vector<uint8_t> x(static_cast<size_t>(s.batch * s.in_channels * s.height * s.width));
  for (uint8_t& code : x) {
    code = static_cast<uint8_t>(pick(0, 9) == 0 ? 128 : pick(0, 255));
  }
  std::vector<int32_t> bias(static_cast<size_t>(s.out_channels));
  for (int32_t& b : bias) {
    b = static_cast<int32_t>(pick(-1000, 1000));
  }
  const Packed<int32_t> packed = pack(weight_quads(weight, s), in_quads(s), static_cast<int32_t>(block_rows), chunk);
  std::vector<int32_t> y(static_cast<size_t>(s.batch * s.out_channels * s.out_height() * s.out_width()));
  const Weights<int32_t> weights{packed.values.data(), packed.taps.data(), packed.starts.data(),
                                 static_cast<int32_t>(block_rows), chunk};
  const CodeProblem problem{s, weights, x.data(), pick(0, 1) == 1, bias.data(), y.data()};
  for (const Path path : {Path::kScalar, Path::kAvx2, Path::kAvx512, Path::kAvxVnni, Path::kAvx512Vnni}) {
    if (!has(path)) {
      continue;
    }
    std::fill(y.begin(), y.end(), -1);
    convolve_codes(problem, path, static_cast<int>(pick(1, 4)), run_here);
    for (size_t at = 0; at < y.size(); ++at) {
      const auto i = static_cast<int64_t>(at);
      const int64_t column = i % s.out_width(), row = i / s.out_width() % s.out_height();
      const int64_t channel = i / s.out_width() / s.out_height();
      if (y[at] != plain_codes(problem, weight, channel / s.out_channels, channel % s.out_channels, row, column)) {
        std::printf("codes %d, path %d: output %zu is %d\n", index, static_cast<int>(path), at, y[at]);
        return 1;
      }
    }
  }
  return 0;
}

}  // namespace

int main() {
  std::mt19937 random(1);
  int failures = check_runs(random);
  for (int i = 0; i < 300; ++i) {
    failures += check_layer(random, i) + check_codes(random, i);
  }
  std::printf("%d failures\n", failures);
  return failures != 0;
}
