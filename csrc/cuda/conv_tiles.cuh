// SPDX-License-Identifier: Apache-2.0
// Convolution as a matrix product on the tensor cores: rows are output pixels, columns output channels, and the depth
// runs over the taps and, fastest, the input channels. Tiles of both factors pass through shared memory, copied while
// the ones before are multiplied; the matrix of the pixels is never formed.
#ifndef YHW_CUDA_CONV_TILES_CUH_
#define YHW_CUDA_CONV_TILES_CUH_

#include "../int_conv2d.h"
#include "device.cuh"

namespace yhw {

constexpr int kTileDepth = 64;  // bytes of the depth in a tile
// With 16 bytes between the rows, the 8 rows of 16 bytes that are read together lie in different banks.
constexpr int kTileRow = kTileDepth + 16;
constexpr int kTileChannels = 64;
constexpr int kStages = 3;
static_assert(kTileRow % 16 == 0 && kTileRow / 16 % 2 == 1, "an odd number of 16-byte banks visits all 8 of them");

// Code: uint8_t or int8_t. kChunk: bytes of a copy, which divide the input channels of a group. kWarpRows: warps, each
// with 32 pixels, below one another; two of them lie side by side, each with 32 channels.
template <typename Code, int kChunk, int kWarpRows>
struct ConvTiles {
  static constexpr bool kUnsigned = static_cast<Code>(-1) > 0;
  static constexpr int kThreads = 64 * kWarpRows;
  static constexpr int kTilePixels = 32 * kWarpRows;
  static constexpr int kChunks = kTileDepth / kChunk;     // of a row
  static constexpr int kRowsAtOnce = kThreads / kChunks;  // rows that the block copies together
  static_assert(kThreads % kChunks == 0 && kTilePixels % kRowsAtOnce == 0, "every thread copies the same column");
  static_assert(kTileChannels % kRowsAtOnce == 0, "every thread copies the same column");

  // Where the window of a pixel begins; its image is -1 for rows beyond the last pixel.
  struct Origin {
    int image, y, x;
  };
  struct Stage {
    unsigned char codes[kTilePixels][kTileRow];
    unsigned char weights[kTileChannels][kTileRow];
  };
  struct Shared {
    union {
      alignas(16) Stage stages[kStages];
      alignas(16) int16_t results[kTilePixels][kTileChannels + 8];
    };
    Origin origins[kTilePixels];
  };

  IntConv2dArgs args;

  __device__ void operator()() const {
    Shared& shared = shared_memory<Shared>();
    find_origins(shared);
    __syncthreads();
    const int steps = (args.sizes.depth() + kTileDepth - 1) / kTileDepth;
    for (int step = 0; step < kStages - 1; ++step) {
      copy_stage(shared, step);
    }
    int acc[2][4][4] = {};
    for (int step = 0; step < steps; ++step) {
      wait_for_copies<kStages - 2>();
      __syncthreads();  // the stage has arrived, and the one before has been read
      copy_stage(shared, step + kStages - 1);
      multiply(shared.stages[step % kStages], acc);
    }
    __syncthreads();  // all stages are read: the results take their place
    put_results(shared, acc);
    __syncthreads();
    store_results(shared);
  }

 private:
  __device__ int64_t first_pixel() const { return static_cast<int64_t>(blockIdx.x) * kTilePixels; }
  __device__ int first_channel() const { return static_cast<int>(blockIdx.y) * kTileChannels; }
  __device__ int group() const { return static_cast<int>(blockIdx.z); }

  __device__ void find_origins(Shared& shared) const {
    const ConvSizes& z = args.sizes;
    for (int row = static_cast<int>(threadIdx.x); row < kTilePixels; row += kThreads) {
      const int64_t pixel = first_pixel() + row, line = pixel / z.wo;
      Origin& origin = shared.origins[row];
      origin.image = pixel < z.pixels() ? static_cast<int>(line / z.ho) : -1;
      origin.y = static_cast<int>(line % z.ho) * z.stride[0] - z.padding[0];
      origin.x = static_cast<int>(pixel % z.wo) * z.stride[1] - z.padding[1];
    }
  }

  // Starts copying step `step` of the depth; beyond the end zeros, or nothing if the stage is never read.
  __device__ void copy_stage(Shared& shared, int step) const {
    const ConvSizes& z = args.sizes;
    const int column = static_cast<int>(threadIdx.x) % kChunks * kChunk, inputs = z.group_inputs(), depth = z.depth();
    const int64_t at = static_cast<int64_t>(step) * kTileDepth + column;  // in the depth
    if (static_cast<int64_t>(step) * kTileDepth < depth) {
      const bool inside = at < depth;
      const int tap = inside ? static_cast<int>(at) / inputs : 0, c = static_cast<int>(at) - tap * inputs;
      const int dy = tap / z.s * z.dilation[0], dx = tap % z.s * z.dilation[1];
      Stage& stage = shared.stages[step % kStages];
      const auto* x = static_cast<const unsigned char*>(args.x) + group() * inputs + (inside ? c : 0);
      for (int row = static_cast<int>(threadIdx.x) / kChunks; row < kTilePixels; row += kRowsAtOnce) {
        const Origin origin = shared.origins[row];
        const int iy = origin.y + dy, ix = origin.x + dx;
        const bool exists = inside && origin.image >= 0 && iy >= 0 && iy < z.h && ix >= 0 && ix < z.w;
        const int64_t pixel = (static_cast<int64_t>(origin.image) * z.h + iy) * z.w + ix;
        copy(&stage.codes[row][column], exists ? x + pixel * z.c : args.x, exists);
      }
      const int64_t first = static_cast<int64_t>(group()) * z.group_outputs() + first_channel();
      for (int row = static_cast<int>(threadIdx.x) / kChunks; row < kTileChannels; row += kRowsAtOnce) {
        const bool exists = inside && first_channel() + row < z.group_outputs();
        copy(&stage.weights[row][column], exists ? args.weights + (first + row) * depth + at : args.weights, exists);
      }
    }
    commit_copies();
  }

  // One chunk, zeros unless it exists.
  static __device__ void copy(unsigned char* to, const void* from, bool exists) {
    if constexpr (kChunk == 1) {
      *to = exists ? *static_cast<const unsigned char*>(from) : static_cast<unsigned char>(0);
    } else {
      copy_async<kChunk>(to, from, exists ? kChunk : 0);
    }
  }

  // Pixel and channel of the warp's first result in the tile.
  __device__ int warp_pixel() const { return static_cast<int>(threadIdx.x) / 64 * 32; }
  __device__ int warp_channel() const { return static_cast<int>(threadIdx.x) / 32 % 2 * 32; }

  __device__ void multiply(const Stage& stage, int (&acc)[2][4][4]) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int at = 0; at < kTileDepth; at += 32) {
      uint32_t codes[2][4], weights[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {  // rows 0..7 and 8..15 of bytes 0..15, then of bytes 16..31
        load_matrices(codes[i], &stage.codes[warp_pixel() + 16 * i + lane % 16][at + lane / 16 * 16]);
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {  // bytes 0..15 and 16..31 of channels 0..7, then of channels 8..15
        const int channel = warp_channel() + 16 * j + lane / 16 * 8 + lane % 8;
        load_matrices(weights[j], &stage.weights[channel][at + lane / 8 % 2 * 16]);
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const uint32_t column[2] = {weights[j / 2][j % 2 * 2], weights[j / 2][j % 2 * 2 + 1]};
          mma_16x8x32<kUnsigned>(acc[i][j], codes[i], column);
        }
      }
    }
  }

  __device__ void put_results(Shared& shared, const int (&acc)[2][4][4]) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const int column = warp_channel() + 8 * j + lane % 4 * 2 + part;
        if (first_channel() + column >= args.sizes.group_outputs()) {
          continue;
        }
        const int k = group() * args.sizes.group_outputs() + first_channel() + column;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = warp_pixel() + 8 * i + lane / 4;
          shared.results[row][column] = static_cast<int16_t>(args.output.code(acc[i / 2][j][i % 2 * 2 + part], k));
        }
      }
    }
  }

  // Whole 16-byte stores where the output's rows allow them, neighbouring channels by neighbouring threads otherwise.
  __device__ void store_results(const Shared& shared) const {
    const ConvSizes& z = args.sizes;
    const int columns = min_int(kTileChannels, z.group_outputs() - first_channel());
    const int64_t first = static_cast<int64_t>(group()) * z.group_outputs() + first_channel();
    const bool whole = args.output.type != CodeType::kInt16 && columns % 16 == 0 && z.k % 16 == 0 && first % 16 == 0;
    const int each = whole ? 16 : 1, per_row = columns / each;
    for (int i = static_cast<int>(threadIdx.x); i < kTilePixels * per_row; i += kThreads) {
      const int row = i / per_row, column = i % per_row * each;
      if (shared.origins[row].image < 0) {
        continue;
      }
      const int64_t to = (first_pixel() + row) * z.k + first + column;
      if (whole) {
        Vector bytes;
        for (int b = 0; b < 16; ++b) {
          bytes.values[b] = static_cast<unsigned char>(shared.results[row][column + b]);
        }
        *reinterpret_cast<Vector*>(static_cast<unsigned char*>(args.y) + to) = bytes;
      } else {
        args.output.store(args.y, to, shared.results[row][column]);
      }
    }
  }

  struct alignas(16) Vector {
    unsigned char values[16];
  };
  static __device__ int min_int(int a, int b) { return a < b ? a : b; }
};

}  // namespace yhw

#endif  // YHW_CUDA_CONV_TILES_CUH_
