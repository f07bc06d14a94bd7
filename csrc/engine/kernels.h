// SPDX-License-Identifier: Apache-2.0
// The inner loops of the engine as a table of functions, one table per instruction set. All tables give equal codes.
//
// Everything works in tiles: some neighbouring output pixels by at most 4 blocks of kLanes output channels. A kernel
// leaves the accumulators of a tile as [pixel][block][kLanes], and `finish` turns them into codes.
#ifndef YHW_ENGINE_KERNELS_H_
#define YHW_ENGINE_KERNELS_H_

#include <cstdint>

#include "epilogue.h"
#include "view.h"
#include "window.h"

namespace yhw {

constexpr int kMaxBlocks = 4;
constexpr int kMaxTilePixels = 16;
constexpr int kMaxTileLanes = kMaxTilePixels * kMaxBlocks * kLanes;
// `finish` reads the accumulators of a multiple of so many pixels; what is behind the last one does not matter.
constexpr int kPackedPixels = 4;
// Bytes of input that one dot product step takes: 4 codes of one byte or 2 of two bytes.
constexpr int kStepBytes = 4;

// How a convolution's weights lie in memory for a step of kStepBytes input bytes and kLanes output channels.
enum class WeightLayout {
  kBytes,        // [kLanes][4] int8, for bytes
  kEvenOddWords  // [2][kLanes][2] int16, for bytes: codes 0 and 2, then codes 1 and 3
};

// Weights of up to kMaxBlocks blocks of output channels that are computed together. Two-byte codes have weights
// [kLanes][2] int16 per step.
struct ConvChunk {
  int blocks = 0;
  int rows = 0, columns = 0;         // runs of consecutive input bytes per window; the taps of a row may form one run
  int steps = 0;                     // per run
  const uint8_t* weights = nullptr;  // [rows][columns][steps][blocks] steps
  const int32_t* bias = nullptr;     // [blocks * kLanes]
  bool words = false;                // two-byte codes
};

// Weights of a block of kLanes output channels of which most steps are zero: one weight step and one input offset for
// each other step. Bytes only.
struct SparseBlock {
  int count = 0;
  const uint8_t* weights = nullptr;  // [count] steps
  const int32_t* offset = nullptr;   // [count] bytes from a pixel's origin
  const int32_t* bias = nullptr;     // [kLanes]
};

// Where the windows of a tile's pixels lie: run (r, s) of pixel p begins at origin[p] + r * pitch_y[p] + s *
// pitch_x[p].
struct TileSource {
  const uint8_t* origin[kMaxTilePixels];
  int64_t pitch_y[kMaxTilePixels];
  int64_t pitch_x[kMaxTilePixels];
  int64_t spacing = 0;   // bytes from one origin to the next where `uniform`
  bool uniform = false;  // equal distances and pitches
};

// Where the windows of a sparse tile's pixels lie: neighbours of one row, or of two.
struct SparseSource {
  const uint8_t* origin = nullptr;  // of the first pixel's window
  int64_t spacing = 0;              // bytes from one pixel to the next
  int64_t pitch = 0;                // bytes from one row to the next
  int rows = 1, columns = 0;        // two rows have at most half of the columns each
};

// Weights of a depthwise convolution, padded to whole blocks.
struct PackedDepthwise {
  Window window;
  int lanes = 0;                     // channels, padded to whole blocks
  const int16_t* weights = nullptr;  // [tap][lanes]
  // Steps of up to 4 rows of a column of taps, [lanes / kLanes][size_x][(size_y + 3) / 4]; null where `weights` is
  // used.
  const uint8_t* columns = nullptr;
  const int32_t* bias = nullptr;  // [lanes]
};

// Whether kernels that interleave take a depthwise convolution of bytes in columns of taps.
inline bool takes_columns(const Window& w) {
  const bool strides = w.stride_x == 1 || w.stride_x == 2 || (w.stride_x == 4 && w.size_x == 3);
  return w.size_x == w.size_y && (w.size_x == 3 || w.size_x == 5) && w.dilation_x == 1 && strides;
}

// The input of a row of depthwise windows, edges included: tap (r, s) of window p begins at rows[r] + offset +
// (p * stride_x + s * dilation_x) * pitch.
struct DepthwiseRow {
  const uint8_t* const* rows = nullptr;  // [size_y], repeated up to a multiple of 4
  int64_t offset = 0;                    // bytes to the channels of the block
  int64_t pitch = 0;                     // bytes from one pixel to the next
  Storage storage;
};

// Neighbouring pixels of one map.
struct PixelRun {
  const uint8_t* data = nullptr;
  int64_t spacing = 0;  // bytes from one pixel to the next
  int pixels = 0;
  int channels = 0;
  Storage storage;
};

struct Kernels {
  const char* name;
  WeightLayout layout;
  bool interleaves;                 // depthwise convolutions in columns of taps
  int max_blocks;                   // most blocks of a chunk
  int tile_pixels[kMaxBlocks + 1];  // most pixels of a tile with this many blocks
  int sparse_pixels;                // most pixels of a sparse tile

  void (*conv_tile)(const ConvChunk& chunk, const TileSource& source, int pixels, int32_t* acc);
  void (*sparse_tile)(const SparseBlock& block, const SparseSource& source, int32_t* acc);
  // acc[pixel][vectors] = the largest of 2 x 2 accumulators: of pixels 2 * pixel and 2 * pixel + 1 of `acc` and
  // `below`.
  void (*pool_tile)(const int32_t* below, int pixels, int vectors, int32_t* acc);
  // Accumulators [pixel][kLanes] of a block of channels of a depthwise convolution.
  void (*depthwise_row)(const PackedDepthwise& conv, const DepthwiseRow& row, int block, int pixels, int32_t* acc);
  // acc[pixel][blocks of all channels] = code << left, or += where not `start`.
  void (*add_tile)(const PixelRun& run, int left, bool start, int32_t* acc);
  // The same, = a * b; b has spacing 0 for factors that all pixels share, and 1 channel for factors that all channels
  // do.
  void (*mul_tile)(const PixelRun& a, const PixelRun& b, int32_t* acc);
  // Codes of a tile: channels first, ... of `pixels` pixels that are `spacing` bytes apart.
  void (*finish)(const Epilogue& epilogue, const int32_t* acc, int first, int blocks, int pixels, uint8_t* out,
                 int64_t spacing);
  void (*finish_wide)(const Epilogue& epilogue, const int64_t* acc, int first, int blocks, int pixels, uint8_t* out,
                      int64_t spacing);
  // Row y of a max pool; taps outside of the map are skipped. `columns` has room for a row of `src`.
  void (*maxpool_row)(const Window& window, const View& src, int y, const View& dst, uint8_t* columns);
  // Codes [C, H, W], or [H, W, C] where `channels_last`, into the input map.
  void (*load_bytes)(const uint8_t* image, bool channels_last, const View& map);
  void (*load_signed_bytes)(const int8_t* image, bool channels_last, const View& map);
  void (*load_words)(const Code* image, bool channels_last, const View& map);
  // A map's codes, [C, H, W].
  void (*read_map)(const View& map, Code* out);
};

const Kernels& scalar_kernels();
const Kernels& avx2_kernels();
const Kernels& avxvnni_kernels();
const Kernels& avx512vnni_kernels();

}  // namespace yhw

#endif  // YHW_ENGINE_KERNELS_H_
