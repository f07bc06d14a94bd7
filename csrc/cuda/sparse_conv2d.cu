// SPDX-License-Identifier: Apache-2.0
#include "../library.h"
#include "../sparse_conv2d.h"
#include "launch.cuh"
#include "sparse_direct.cuh"

namespace yhw {
namespace {

// Blocks of threads that keep every device busy; with fewer, one pixel per thread is better.
constexpr int64_t kManyBlocks = 512;

template <class Arithmetic, int kRows, int kPixels>
void launch_direct(const Tensor& x, const sparse::Problem<typename Arithmetic::Element>& problem, SparseSizes sizes) {
  using Kernel = SparseDirect<Arithmetic, kRows, kPixels>;
  static_assert(sizeof(typename Kernel::Shared) <= kFreeSharedBytes, "what every device gives");
  sizes.parts = (problem.weights.block_rows + kRows - 1) / kRows;
  const int64_t pixels = problem.shape.batch * sizes.map;
  if constexpr (kPixels > 1) {
    if (pixels / Kernel::kTilePixels * sizes.units() < kManyBlocks) {
      launch_direct<Arithmetic, kRows, 1>(x, problem, sizes);
      return;
    }
  }
  const auto along_y = static_cast<unsigned>(std::min(sizes.units(), kMaxBlocks));
  launch(x, dim3(blocks_for(pixels, Kernel::kTilePixels), along_y), sizeof(typename Kernel::Shared),
         Kernel{problem, sizes});
}

template <class Arithmetic>
void run_direct(const Tensor& x, const sparse::Problem<typename Arithmetic::Element>& problem, int64_t blocks) {
  const sparse::ConvShape& s = problem.shape;
  for (const int64_t size : {s.height + 2 * s.pad_h, s.width + 2 * s.pad_w}) {
    STD_TORCH_CHECK(size <= std::numeric_limits<int>::max() / 2, "sparse_conv2d: x is too large for CUDA: ", size,
                    " rows or columns with padding");
  }
  const int64_t map = s.out_height() * s.out_width();
  if (s.batch * map == 0) {
    return;  // an empty grid is an invalid launch
  }
  const SparseSizes sizes{
      problem.block_row_count(),        0, problem.chunk_count(), blocks, map, static_cast<int>(s.out_width()),
      sparse::tap_bits(s.kernel_size())};
  if (problem.weights.block_rows == 1) {
    launch_direct<Arithmetic, 1, 4>(x, problem, sizes);
  } else if (problem.weights.block_rows <= 4) {
    launch_direct<Arithmetic, 4, 4>(x, problem, sizes);
  } else {
    launch_direct<Arithmetic, 16, 2>(x, problem, sizes);
  }
}

// Codes [batch, groups, channels, pixels] to quads [batch, groups, quads, pixels]; element i of the latter.
struct MakeQuads {
  const uint8_t* codes;
  int64_t channels, quads, pixels;
  // outputs
  int32_t* to;

  __device__ void operator()(int64_t i) const {
    const int64_t plane = i / pixels, pixel = i % pixels;
    const int64_t group = plane / quads, first = plane % quads * sparse::kQuad;
    uint32_t quad = 0;
    for (int64_t c = 0; c < sparse::kQuad && first + c < channels; ++c) {
      quad |= static_cast<uint32_t>(codes[(group * channels + first + c) * pixels + pixel]) << (8 * c);
    }
    to[i] = static_cast<int32_t>(quad);
  }
};

struct Cuda {
  // What is in starts and taps stays on the device; a kernel that finds it wrong stops.
  template <typename Element>
  static sparse::Weights<Element> weights_of(const SparseConvArgs& args, const PackedTensors& packed) {
    return {static_cast<const Element*>(packed.values.const_data_ptr()),
            static_cast<const int16_t*>(packed.taps.const_data_ptr()),
            static_cast<const int32_t*>(packed.starts.const_data_ptr()), static_cast<int32_t>(packed.values.size(1)),
            static_cast<int32_t>(args.chunk)};
  }

  template <typename Real>
  static void run(const sparse::ConvShape& shape, const SparseConvArgs& args, double slope, const Tensor& x,
                  const PackedTensors& packed, const Real* bias,
                  // outputs
                  Real* y) {
    const sparse::Problem<Real> problem{shape,
                                        weights_of<Real>(args, packed),
                                        static_cast<sparse::Activation>(args.activation),
                                        static_cast<Real>(slope),
                                        Real{0},
                                        static_cast<const Real*>(x.const_data_ptr()),
                                        bias,
                                        y};
    run_direct<RealArithmetic<Real>>(x, problem, packed.values.size(0));
  }

  static void run_codes(const sparse::ConvShape& shape, const SparseConvArgs& args, const Tensor& x,
                        const PackedTensors& packed, const int32_t* bias,
                        // outputs
                        int32_t* y) {
    const sparse::ConvShape s = sparse::in_quads(shape);
    Tensor quads = torch::stable::new_empty(x, {s.batch, s.in_channels, s.height, s.width}, ScalarType::Int);
    auto* const to = static_cast<int32_t*>(quads.mutable_data_ptr());
    for_each(x, quads.numel(),
             MakeQuads{static_cast<const uint8_t*>(x.const_data_ptr()), shape.group_channels(), s.group_channels(),
                       s.height * s.width, to});
    const sparse::Problem<int32_t> problem{
        s, weights_of<int32_t>(args, packed), sparse::Activation::kNone, 0, 0, to, bias, y};
    x.scalar_type() == ScalarType::Byte ? run_direct<CodeArithmetic<true>>(x, problem, packed.values.size(0))
                                        : run_direct<CodeArithmetic<false>>(x, problem, packed.values.size(0));
  }
};

}  // namespace
}  // namespace yhw

YHW_LIBRARY_CUDA(m) { yhw::register_sparse_conv2d<yhw::Cuda>(m); }
