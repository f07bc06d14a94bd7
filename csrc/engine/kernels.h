// SPDX-License-Identifier: Apache-2.0
// The inner loops of the engine as a table of functions, one table per instruction set. All tables give equal codes.
#ifndef YHW_ENGINE_KERNELS_H_
#define YHW_ENGINE_KERNELS_H_

#include <cstdint>

#include "requantiser.h"
#include "view.h"
#include "window.h"

namespace yhw {

// Output channels computed together; weights and accumulators are padded to a multiple of it.
constexpr int kLanes = 16;

// Packed weights of a grouped convolution: [group][K / group / kLanes][tap][C / group / 2][kLanes][2], zero padded.
struct PackedConv {
  Window window;
  int groups = 1;
  int in_per_group = 0;   // C / groups
  int out_per_group = 0;  // K / groups
  bool wide = false;      // accumulators may need more than 32 bits
  const Code* weights = nullptr;
  const int32_t* bias = nullptr;  // [groups][blocks * kLanes]

  int pairs() const { return (in_per_group + 1) / 2; }
  int blocks() const { return (out_per_group + kLanes - 1) / kLanes; }
  int64_t block_size() const { return static_cast<int64_t>(window.taps()) * pairs() * kLanes * 2; }
};

// Packed weights of a depthwise convolution: [tap][C].
struct PackedDepthwise {
  Window window;
  bool wide = false;
  const Code* weights = nullptr;
  const int32_t* bias = nullptr;  // [C]
};

struct Kernels {
  const char* name;

  // Accumulators of one output row: acc[x * acc_stride + group * blocks * kLanes + k]. `src` is the padded map at the
  // row's first tap; `src_row` is the distance of its rows in codes. `acc` holds int64 if conv.wide, else int32.
  void (*conv_row)(const PackedConv& conv, const View& src, int64_t src_row, int out_w, int acc_stride, void* acc);
  // The same for a depthwise convolution, acc[x * acc_stride + c].
  void (*depthwise_row)(const PackedDepthwise& conv, const View& src, int64_t src_row, int out_w, int acc_stride,
                        void* acc);
  // Codes of `pixels` pixels with `channels` channels each from accumulators (int64 if `wide`, else int32).
  void (*requant_row)(const Requantiser& requant, const void* acc, bool wide, int pixels, int acc_stride, int channels,
                      Code* out, int out_stride);
  // One output row of a max pool; taps outside of the map are skipped.
  void (*maxpool_row)(const Window& window, const View& src, int y, const View& dst);
};

const Kernels& scalar_kernels();
const Kernels& avx2_kernels();

}  // namespace yhw

#endif  // YHW_ENGINE_KERNELS_H_
