// SPDX-License-Identifier: Apache-2.0
#include "../int_conv2d.h"

#include "../library.h"
#include "int_conv2d_tiles.h"

namespace yhw {
namespace {

// The plain loop, for what the tiles do not take (int_conv2d_tiles.h).

// Sum of the products of channel k at one output pixel; wraps at 32 bits.
template <typename Code>
int accumulate(const IntConv2dArgs& args, int64_t n, int oy, int ox, int k) {
  const ConvSizes& z = args.sizes;
  const int inputs = z.group_inputs(), first = k / z.group_outputs() * inputs;
  const int8_t* weights = args.weights + static_cast<int64_t>(k) * z.depth();
  uint32_t acc = 0;
  for (int r = 0; r < z.r; ++r) {
    const int64_t y = int64_t{oy} * z.stride[0] - z.padding[0] + int64_t{r} * z.dilation[0];
    for (int s = 0; s < z.s; ++s, weights += inputs) {
      const int64_t x = int64_t{ox} * z.stride[1] - z.padding[1] + int64_t{s} * z.dilation[1];
      if (y < 0 || y >= z.h || x < 0 || x >= z.w) {
        continue;  // padding has code 0
      }
      const Code* codes = static_cast<const Code*>(args.x) + ((n * z.h + y) * z.w + x) * z.c + first;
      for (int c = 0; c < inputs; ++c) {
        acc += static_cast<uint32_t>(codes[c] * weights[c]);
      }
    }
  }
  return static_cast<int>(acc);
}

struct Cpu {
  static void check_shifts(const IntConv2dArgs& args) {
    for (int k = 0; k < args.sizes.k; ++k) {
      check_shift(args.output.shift[k], args.output.requant.shift_neg);
    }
  }

  template <typename Code>
  static void run(const Tensor&, const IntConv2dArgs& args) {
    if (fits_tiles(args)) {
      return convolve_tiles(args, std::numeric_limits<Code>::is_signed ? 128 : 0);
    }
    const ConvSizes& z = args.sizes;
    torch::stable::parallel_for(0, int64_t{z.n} * z.ho, 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        for (int ox = 0; ox < z.wo; ++ox) {
          for (int k = 0; k < z.k; ++k) {
            const int acc = accumulate<Code>(args, row / z.ho, static_cast<int>(row % z.ho), ox, k);
            args.output.store(args.y, (row * z.wo + ox) * z.k + k, args.output.code(acc, k));
          }
        }
      }
    });
  }
};

}  // namespace
}  // namespace yhw

STABLE_TORCH_LIBRARY_IMPL(yolo_hw, CPU, m) { m.impl("int_conv2d", TORCH_BOX(&yhw::int_conv2d<yhw::Cpu>)); }
