// SPDX-License-Identifier: Apache-2.0
#include "../int_conv2d.h"
#include "../library.h"
#include "conv_direct.cuh"
#include "conv_tiles.cuh"
#include "launch.cuh"

namespace yhw {
namespace {

// Channels of a group from which on a matrix product pays.
constexpr int kLeastTileChannels = 16;
// Tiles that keep every device busy; with fewer, smaller ones are better.
constexpr int64_t kManyTiles = 256;

template <typename Code, int kChunk, int kWarpRows>
void launch_tiles(const Tensor& x, const IntConv2dArgs& args) {
  using Kernel = ConvTiles<Code, kChunk, kWarpRows>;
  static_assert(sizeof(typename Kernel::Shared) <= kFreeSharedBytes, "what every device gives");
  const dim3 grid(blocks_for(args.sizes.pixels(), Kernel::kTilePixels),
                  blocks_for(args.sizes.group_outputs(), kTileChannels), static_cast<unsigned>(args.sizes.groups));
  launch(x, grid, sizeof(typename Kernel::Shared), Kernel{args});
}

template <typename Code, int kChunk>
void run_tiles(const Tensor& x, const IntConv2dArgs& args) {
  using Large = ConvTiles<Code, kChunk, 4>;
  const int64_t tiles = args.sizes.pixels() / Large::kTilePixels * args.sizes.groups *
                        ((args.sizes.group_outputs() + kTileChannels - 1) / kTileChannels);
  tiles >= kManyTiles ? launch_tiles<Code, kChunk, 4>(x, args) : launch_tiles<Code, kChunk, 1>(x, args);
}

template <typename Code, int kWidth>
void launch_direct(const Tensor& x, const IntConv2dArgs& args) {
  using Kernel = ConvDirect<Code, kWidth>;
  const ConvSizes& z = args.sizes;
  const unsigned rows = static_cast<unsigned>(std::min<int64_t>(int64_t{z.n} * z.ho, kMaxBlocks));
  launch(x, dim3(blocks_for(int64_t{z.wo} * z.k / kWidth, Kernel::kThreads), rows), 0, Kernel{args});
}

bool is_aligned(const void* pointer, int bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % static_cast<uintptr_t>(bytes) == 0;
}

struct Cuda {
  // The values stay on the device and are not checked; one outside of the limits gives an undefined code.
  static void check_shifts(const IntConv2dArgs&) {}

  template <typename Code>
  static void run(const Tensor& x, const IntConv2dArgs& args) {
    const ConvSizes& z = args.sizes;
    const auto divides = [&](int bytes) {
      return z.group_inputs() % bytes == 0 && is_aligned(args.x, bytes) && is_aligned(args.weights, bytes);
    };
    const bool few = z.group_inputs() < kLeastTileChannels || z.group_outputs() < kLeastTileChannels;
    if (z.groups > 1 && (few || z.groups > kMaxBlocks)) {
      const bool wide = z.group_inputs() == 1 && z.group_outputs() == 1 && z.c % 4 == 0 && is_aligned(args.x, 4);
      wide ? launch_direct<Code, 4>(x, args) : launch_direct<Code, 1>(x, args);
    } else if (divides(16)) {
      run_tiles<Code, 16>(x, args);
    } else if (divides(4)) {
      run_tiles<Code, 4>(x, args);
    } else {
      run_tiles<Code, 1>(x, args);
    }
  }
};

}  // namespace
}  // namespace yhw

YHW_LIBRARY_CUDA(m) { m.impl("int_conv2d", TORCH_BOX(&yhw::int_conv2d<yhw::Cuda>)); }
