// SPDX-License-Identifier: Apache-2.0
// Argument checks of the operators, one function per operator, called once by each kernel. Every message says what was
// expected and what was found.
#ifndef YHW_CHECKS_H_
#define YHW_CHECKS_H_

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "core/fake_quant.h"

namespace yhw {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kMinBits = 2;
constexpr int64_t kMaxBits = 16;
// Limit of yolo_hw/fixedpoint.py: 2^frac and 2^-frac are normal float32 numbers.
constexpr int kMaxAbsFrac = 64;

// A tensor split around one of its dimensions: [outer, channels, inner], contiguous.
struct ChannelLayout {
  int64_t outer;
  int64_t channels;
  int64_t inner;
};

// What the kernels of fake_quant_pow2 need besides the tensors.
struct FakeQuantArgs {
  ChannelLayout layout;
  CodeRange range;
  Rounding rounding;
  Overflow overflow;
};

// Layout of x for one value per channel along `axis`; one channel where a single value serves all of x.
inline ChannelLayout channel_layout(const Tensor& x, int64_t axis, bool single) {
  if (single) {
    return {1, 1, x.numel()};
  }
  ChannelLayout layout{1, x.size(axis), 1};
  for (int64_t d = 0; d < x.dim(); ++d) {
    (d < axis ? layout.outer : layout.inner) *= d == axis ? 1 : x.size(d);
  }
  return layout;
}

inline FakeQuantArgs check_fake_quant_pow2(const Tensor& x, const Tensor& frac, int64_t axis, int64_t bits,
                                           bool is_signed, int64_t rounding, int64_t overflow) {
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Float || x.scalar_type() == ScalarType::Double,
                  "fake_quant_pow2: x must be float32 or float64");
  STD_TORCH_CHECK(frac.scalar_type() == ScalarType::Int, "fake_quant_pow2: frac must be int32");
  STD_TORCH_CHECK(frac.device() == x.device(), "fake_quant_pow2: frac must be on the device of x");
  STD_TORCH_CHECK(frac.dim() == 1, "fake_quant_pow2: frac must have 1 dimension, got ", frac.dim());
  const bool single = frac.numel() == 1;
  if (!single) {
    STD_TORCH_CHECK(axis >= 0 && axis < x.dim(), "fake_quant_pow2: axis must be in [0, ", x.dim(), "), got ", axis);
    STD_TORCH_CHECK(frac.numel() == x.size(axis), "fake_quant_pow2: frac must have 1 or ", x.size(axis),
                    " values (dimension ", axis, " of x), got ", frac.numel());
  }
  // Unsigned codes have one bit less, so that every code fits an int16.
  const int64_t max_bits = is_signed ? kMaxBits : kMaxBits - 1;
  STD_TORCH_CHECK(bits >= kMinBits && bits <= max_bits, "fake_quant_pow2: bits must be in [", kMinBits, ", ", max_bits,
                  "], got ", bits);
  STD_TORCH_CHECK(rounding >= 0 && rounding <= 3, "fake_quant_pow2: rounding must be in [0, 3], got ", rounding);
  STD_TORCH_CHECK(overflow >= 0 && overflow <= 2, "fake_quant_pow2: overflow must be in [0, 2], got ", overflow);
  const int width = static_cast<int>(bits);
  const CodeRange range =
      is_signed ? CodeRange{-(1 << (width - 1)), (1 << (width - 1)) - 1, width} : CodeRange{0, (1 << width) - 1, width};
  return {channel_layout(x, axis, single), range, static_cast<Rounding>(rounding), static_cast<Overflow>(overflow)};
}

inline FakeQuantArgs check_fake_quant_pow2_backward(const Tensor& grad, const Tensor& x, const Tensor& frac,
                                                    int64_t axis, int64_t bits, bool is_signed, int64_t rounding,
                                                    int64_t overflow) {
  STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type(), "fake_quant_pow2_backward: grad must have the dtype of x");
  STD_TORCH_CHECK(grad.device() == x.device(), "fake_quant_pow2_backward: grad must be on the device of x");
  bool same = grad.dim() == x.dim();
  for (int64_t d = 0; same && d < x.dim(); ++d) {
    same = grad.size(d) == x.size(d);
  }
  STD_TORCH_CHECK(same, "fake_quant_pow2_backward: grad must have the shape of x");
  return check_fake_quant_pow2(x, frac, axis, bits, is_signed, rounding, overflow);
}

}  // namespace yhw

#endif  // YHW_CHECKS_H_
