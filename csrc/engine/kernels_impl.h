// SPDX-License-Identifier: Apache-2.0
// The kernels as templates over an instruction set `Isa`, which supplies the innermost convolution block. Included by
// one source file per instruction set; everything is in an unnamed namespace so that no function compiled for one can
// be linked into another. Included only by kernels_*.cpp.
#include <cstring>

#include "kernels.h"

namespace yhw {
namespace {

template <typename T>
T minimum(T a, T b) {
  return a < b ? a : b;
}

// Isa::kPixels output pixels x kLanes channels: acc[p][lane] += sum over taps and channel pairs.
template <class Isa, typename Acc>
void conv_block(const PackedConv& conv, const Code* weights, const Code* x, int64_t row, int step, int pixels,
                int stride, Acc* acc, int acc_stride) {
  const Window& w = conv.window;
  const int pairs = conv.pairs();
  for (int r = 0; r < w.size_y; ++r) {
    for (int s = 0; s < w.size_x; ++s) {
      const Code* tap = x + r * w.dilation_y * row + static_cast<int64_t>(s) * w.dilation_x * stride;
      Isa::accumulate(weights, pairs, tap, static_cast<int64_t>(step) * stride, pixels, acc, acc_stride);
      weights += static_cast<int64_t>(pairs) * kLanes * 2;
    }
  }
}

template <class Isa, typename Acc>
void conv_row_typed(const PackedConv& conv, const View& src, int64_t src_row, int out_w, int acc_stride, Acc* acc) {
  const int blocks = conv.blocks();
  for (int g = 0; g < conv.groups; ++g) {
    const Code* group_src = src.data + g * conv.in_per_group;
    for (int b = 0; b < blocks; ++b) {
      const int first = (g * blocks + b) * kLanes;
      const Code* weights = conv.weights + (static_cast<int64_t>(g) * blocks + b) * conv.block_size();
      for (int x = 0; x < out_w; x += Isa::kPixels) {
        const int pixels = minimum(static_cast<int>(Isa::kPixels), out_w - x);
        Acc* out = acc + static_cast<int64_t>(x) * acc_stride + first;
        for (int p = 0; p < pixels; ++p) {
          for (int k = 0; k < kLanes; ++k) {
            out[p * acc_stride + k] = conv.bias[first + k];
          }
        }
        const Code* at = group_src + static_cast<int64_t>(x) * conv.window.stride_x * src.stride;
        conv_block<Isa, Acc>(conv, weights, at, src_row, conv.window.stride_x, pixels, src.stride, out, acc_stride);
      }
    }
  }
}

template <class Isa>
void conv_row(const PackedConv& conv, const View& src, int64_t src_row, int out_w, int acc_stride, void* acc) {
  if (conv.wide) {
    conv_row_typed<Isa>(conv, src, src_row, out_w, acc_stride, static_cast<int64_t*>(acc));
  } else {
    conv_row_typed<Isa>(conv, src, src_row, out_w, acc_stride, static_cast<int32_t*>(acc));
  }
}

template <typename Acc>
void depthwise_row_typed(const PackedDepthwise& conv, const View& src, int64_t src_row, int out_w, int acc_stride,
                         Acc* acc) {
  const Window& w = conv.window;
  for (int x = 0; x < out_w; ++x) {
    Acc* out = acc + static_cast<int64_t>(x) * acc_stride;
    for (int c = 0; c < src.c; ++c) {
      out[c] = conv.bias[c];
    }
    const Code* weights = conv.weights;
    for (int r = 0; r < w.size_y; ++r) {
      for (int s = 0; s < w.size_x; ++s) {
        const int64_t column = static_cast<int64_t>(x) * w.stride_x + s * w.dilation_x;
        const Code* tap = src.data + r * w.dilation_y * src_row + column * src.stride;
        for (int c = 0; c < src.c; ++c) {
          out[c] += static_cast<Acc>(static_cast<int32_t>(tap[c])) * weights[c];
        }
        weights += src.c;
      }
    }
  }
}

template <class Isa>
void depthwise_row(const PackedDepthwise& conv, const View& src, int64_t src_row, int out_w, int acc_stride,
                   void* acc) {
  if (conv.wide) {
    depthwise_row_typed(conv, src, src_row, out_w, acc_stride, static_cast<int64_t*>(acc));
  } else {
    depthwise_row_typed(conv, src, src_row, out_w, acc_stride, static_cast<int32_t*>(acc));
  }
}

template <Rounding kRounding, Overflow kOverflow, typename Wide, typename Acc>
void requant_pixels(const Requantiser& requant, const Acc* acc, int pixels, int acc_stride, int channels, Code* out,
                    int out_stride) {
  const auto& q = requant.params;
  const RequantParams<Wide> params{static_cast<Wide>(q.mul_pos),  static_cast<Wide>(q.mul_neg), q.shift_neg,
                                   static_cast<Wide>(q.code_lo),  static_cast<Wide>(q.code_hi), q.code_bits,
                                   static_cast<Wide>(q.clamp_lo), static_cast<Wide>(q.clamp_hi)};
  const int32_t* shift = requant.shift.data();
  const Code* table = requant.table.empty() ? nullptr : requant.table.data();
  for (int p = 0; p < pixels; ++p) {
    const Acc* from = acc + static_cast<int64_t>(p) * acc_stride;
    Code* to = out + static_cast<int64_t>(p) * out_stride;
    if (table != nullptr) {
      for (int k = 0; k < channels; ++k) {
        const Wide code = requant_code<kRounding, kOverflow>(static_cast<Wide>(from[k]), shift[k], params);
        to[k] = table[code - params.code_lo];
      }
    } else {
      for (int k = 0; k < channels; ++k) {
        to[k] = static_cast<Code>(yhw::requant<kRounding, kOverflow>(static_cast<Wide>(from[k]), shift[k], params));
      }
    }
  }
}

template <Rounding kRounding, Overflow kOverflow>
void requant_modes(const Requantiser& requant, const void* acc, bool wide, int pixels, int acc_stride, int channels,
                   Code* out, int out_stride) {
  if (wide) {
    requant_pixels<kRounding, kOverflow, int64_t>(requant, static_cast<const int64_t*>(acc), pixels, acc_stride,
                                                  channels, out, out_stride);
  } else if (requant.narrow) {
    requant_pixels<kRounding, kOverflow, int32_t>(requant, static_cast<const int32_t*>(acc), pixels, acc_stride,
                                                  channels, out, out_stride);
  } else {
    requant_pixels<kRounding, kOverflow, int64_t>(requant, static_cast<const int32_t*>(acc), pixels, acc_stride,
                                                  channels, out, out_stride);
  }
}

template <Rounding kRounding, typename... Args>
void requant_rounding(const Requantiser& requant, Args... args) {
  switch (requant.overflow) {
    case Overflow::kSaturate:
      return requant_modes<kRounding, Overflow::kSaturate>(requant, args...);
    case Overflow::kSaturateSymmetric:
      return requant_modes<kRounding, Overflow::kSaturateSymmetric>(requant, args...);
    case Overflow::kWrap:
      return requant_modes<kRounding, Overflow::kWrap>(requant, args...);
  }
}

template <class Isa>
void requant_row(const Requantiser& requant, const void* acc, bool wide, int pixels, int acc_stride, int channels,
                 Code* out, int out_stride) {
  switch (requant.rounding) {
    case Rounding::kHalfUp:
      return requant_rounding<Rounding::kHalfUp>(requant, acc, wide, pixels, acc_stride, channels, out, out_stride);
    case Rounding::kHalfEven:
      return requant_rounding<Rounding::kHalfEven>(requant, acc, wide, pixels, acc_stride, channels, out, out_stride);
    case Rounding::kHalfAway:
      return requant_rounding<Rounding::kHalfAway>(requant, acc, wide, pixels, acc_stride, channels, out, out_stride);
    case Rounding::kFloor:
      return requant_rounding<Rounding::kFloor>(requant, acc, wide, pixels, acc_stride, channels, out, out_stride);
  }
}

template <class Isa>
void maxpool_row(const Window& window, const View& src, int y, const View& dst) {
  for (int x = 0; x < dst.w; ++x) {
    Code* out = dst.row(y) + static_cast<int64_t>(x) * dst.stride;
    bool first = true;
    for (int r = 0; r < window.size_y; ++r) {
      const int iy = y * window.stride_y - window.pad_y + r;
      if (iy < 0 || iy >= src.h) continue;
      for (int s = 0; s < window.size_x; ++s) {
        const int ix = x * window.stride_x - window.pad_x + s;
        if (ix < 0 || ix >= src.w) continue;
        const Code* in = src.row(iy) + static_cast<int64_t>(ix) * src.stride;
        if (first) {
          std::memcpy(out, in, sizeof(Code) * static_cast<size_t>(src.c));
          first = false;
        } else {
          for (int c = 0; c < src.c; ++c) {
            out[c] = out[c] < in[c] ? in[c] : out[c];
          }
        }
      }
    }
  }
}

template <class Isa>
const Kernels& make_kernels() {
  static const Kernels kernels = {Isa::kName, conv_row<Isa>, depthwise_row<Isa>, requant_row<Isa>, maxpool_row<Isa>};
  return kernels;
}

}  // namespace
}  // namespace yhw
