// SPDX-License-Identifier: Apache-2.0
// Convolution with sparse weights: every thread sums kPixels pixels of kRows output channels of one row of blocks, tap
// by tap in packed order. A block of threads shares the row, so weights and taps come from shared memory as broadcasts,
// and neighbouring threads read neighbouring pixels.
#ifndef YHW_CUDA_SPARSE_DIRECT_CUH_
#define YHW_CUDA_SPARSE_DIRECT_CUH_

#include <cmath>

#include "../sparse/conv.h"
#include "device.cuh"

namespace yhw {

// What the threads compute with: Element, activate, and fma(weight, x, sum) = weight * x + sum rounded once.
template <typename Real>
struct RealArithmetic {
  using Element = Real;
  using Vector = Real;

  static YHW_HD_MEMBER Real fma(Real weight, Real x, Real sum) { return std::fma(weight, x, sum); }
  static YHW_HD_MEMBER Real broadcast(Real v) { return v; }
  static YHW_HD_MEMBER Real maximum(Real a, Real b) { return a > b ? a : b; }
  static YHW_HD_MEMBER Real minimum(Real a, Real b) { return a < b ? a : b; }
  static YHW_HD_MEMBER Real leaky(Real v, Real slope) { return v > 0 ? v : v * slope; }
  static YHW_HD_MEMBER Real activate(sparse::Activation activation, Real slope, Real v) {
    return sparse::activate<RealArithmetic>(activation, slope, v);
  }
};

// Quads of codes (sparse/quads.h); signed ones need no offset here.
template <bool kUnsigned>
struct CodeArithmetic {
  using Element = int32_t;

  static __device__ int32_t fma(int32_t weight, int32_t x, int32_t sum) {
    return dot4<kUnsigned>(static_cast<uint32_t>(x), static_cast<uint32_t>(weight), sum);
  }
  static __device__ int32_t activate(sparse::Activation, int32_t, int32_t v) { return v; }
};

// Numbers that a thread would derive from the problem.
struct SparseSizes {
  int64_t row_count;  // rows of blocks
  int64_t parts;      // of kRows output channels, in a row of blocks
  int64_t chunks, blocks;
  int64_t map;  // pixels of an output channel
  int out_width, tap_bits;

  YHW_HD_MEMBER int64_t units() const { return row_count * parts; }
};

template <class Arithmetic, int kRows, int kPixels>
struct SparseDirect {
  using Element = typename Arithmetic::Element;
  static constexpr int kThreads = 128;
  static constexpr int kTilePixels = kThreads * kPixels;

  struct Tap {
    int64_t offset;   // of the input, in elements from the pixel at the first tap
    int row, column;  // of the map, from the same pixel
  };
  struct Shared {
    Tap taps[kThreads];
    Element weights[kThreads][kRows];
  };

  sparse::Problem<Element> problem;
  SparseSizes sizes;

  // grid: x over tiles of the pixels of the batch, y over the parts of the rows of blocks.
  __device__ void operator()() const {
    Pixel pixels[kPixels];
    for (int p = 0; p < kPixels; ++p) {
      pixels[p] = pixel_at((static_cast<int64_t>(blockIdx.x) * kPixels + p) * kThreads + threadIdx.x);
    }
    const int64_t rows = problem.weights.block_rows;
    for (int64_t unit = blockIdx.y; unit < sizes.units(); unit += gridDim.y) {
      const int64_t row = unit / sizes.parts;
      const int first = static_cast<int>(unit % sizes.parts) * kRows;
      Element sums[kRows][kPixels];
      for (int m = 0; m < kRows; ++m) {
        const bool has_bias = problem.bias != nullptr && is_channel(row, first + m);
        const Element bias = has_bias ? problem.bias[row * rows + first + m] : Element{0};
        for (int p = 0; p < kPixels; ++p) {
          sums[m][p] = bias;
        }
      }
      for (int64_t chunk = 0; chunk < sizes.chunks; ++chunk) {
        add_chunk(chunk, row, first, pixels, sums);
      }
      store(row, first, pixels, sums);
    }
  }

 private:
  // Of the output: its place in the first output channel and, at the first tap, in the first input channel.
  struct Pixel {
    int64_t output, input;
    int row, column;
    bool exists;
  };

  __device__ Pixel pixel_at(int64_t index) const {
    const sparse::ConvShape& s = problem.shape;
    const int64_t image = index / sizes.map, in_map = index % sizes.map;
    const int row = static_cast<int>(in_map / sizes.out_width * s.stride_h - s.pad_h);
    const int column = static_cast<int>(in_map % sizes.out_width * s.stride_w - s.pad_w);
    return {image * s.out_channels * sizes.map + in_map, (image * s.in_channels * s.height + row) * s.width + column,
            row, column, image < s.batch};
  }

  // Whether channel m of a row of blocks exists.
  __device__ bool is_channel(int64_t row, int m) const {
    const int64_t rows = problem.weights.block_rows;
    return m < rows && row * rows + m < problem.shape.out_channels;
  }

  __device__ void add_chunk(int64_t chunk, int64_t row, int first, const Pixel (&pixels)[kPixels],
                            // outputs
                            Element (&sums)[kRows][kPixels]) const {
    Shared& shared = shared_memory<Shared>();
    const int32_t* starts = problem.weights.starts + chunk * sizes.row_count + row;
    const int64_t end = starts[1];
    if (starts[0] < 0 || starts[0] > end || end > sizes.blocks) {
      __trap();  // the CPU reports an error; here it would have to be waited for
    }
    for (int64_t begin = starts[0]; begin < end; begin += kThreads) {
      const int count = static_cast<int>(end - begin < kThreads ? end - begin : kThreads);
      __syncthreads();  // those before are used up
      stage(chunk, row, first, begin, count, shared);
      __syncthreads();
      for (int i = 0; i < count; ++i) {
        add_tap(shared.taps[i], shared.weights[i], pixels, sums);
      }
    }
  }

  // Blocks [begin, begin + count) into shared memory.
  __device__ void stage(int64_t chunk, int64_t row, int first, int64_t begin, int count,
                        // outputs
                        Shared& shared) const {
    const sparse::ConvShape& s = problem.shape;
    const sparse::Weights<Element>& w = problem.weights;
    const int thread = static_cast<int>(threadIdx.x);
    if (thread < count) {
      const unsigned code = static_cast<uint16_t>(w.taps[begin + thread]);
      const int tap = static_cast<int>(code & ((1u << sizes.tap_bits) - 1));
      const int64_t in_chunk = code >> sizes.tap_bits, channel = chunk * w.chunk + in_chunk;
      const int64_t channels = s.in_channels / s.groups;
      if (in_chunk >= w.chunk || channel >= channels || tap >= s.kernel_h * s.kernel_w) {
        __trap();
      }
      const int64_t group = s.groups == 1 ? 0 : row * w.block_rows / (s.out_channels / s.groups);
      const int down = static_cast<int>(tap / s.kernel_w * s.dilation_h);
      const int right = static_cast<int>(tap % s.kernel_w * s.dilation_w);
      shared.taps[thread] = {((group * channels + channel) * s.height + down) * s.width + right, down, right};
    }
    for (int i = thread; i < count * kRows; i += kThreads) {
      const int m = first + i % kRows;
      shared.weights[i / kRows][i % kRows] =
          m < w.block_rows ? w.values[(begin + i / kRows) * w.block_rows + m] : Element{0};
    }
  }

  __device__ __forceinline__ void add_tap(const Tap& tap, const Element (&weights)[kRows],
                                          const Pixel (&pixels)[kPixels],
                                          // outputs
                                          Element (&sums)[kRows][kPixels]) const {
    Element x[kPixels];
    for (int p = 0; p < kPixels; ++p) {
      // Outside of the map is a zero that is multiplied as well: it can change the sign of a zero, and NaN stays NaN.
      const auto y = static_cast<unsigned>(pixels[p].row + tap.row);
      const bool inside =
          pixels[p].exists && y < static_cast<unsigned>(problem.shape.height) &&
          static_cast<unsigned>(pixels[p].column + tap.column) < static_cast<unsigned>(problem.shape.width);
      x[p] = inside ? problem.x[pixels[p].input + tap.offset] : Element{0};
    }
    for (int m = 0; m < kRows; ++m) {
      const Element weight = weights[m];
      for (int p = 0; p < kPixels; ++p) {
        sums[m][p] = Arithmetic::fma(weight, x[p], sums[m][p]);
      }
    }
  }

  __device__ void store(int64_t row, int first, const Pixel (&pixels)[kPixels],
                        const Element (&sums)[kRows][kPixels]) const {
    for (int m = 0; m < kRows; ++m) {
      if (!is_channel(row, first + m)) {
        continue;
      }
      Element* const channel = problem.y + (row * problem.weights.block_rows + first + m) * sizes.map;
      for (int p = 0; p < kPixels; ++p) {
        if (pixels[p].exists) {
          channel[pixels[p].output] = Arithmetic::activate(problem.activation, problem.slope, sums[m][p]);
        }
      }
    }
  }
};

}  // namespace yhw

#endif  // YHW_CUDA_SPARSE_DIRECT_CUH_
