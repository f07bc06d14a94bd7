// SPDX-License-Identifier: Apache-2.0
// Argument checks of fake_quant_pow2 and its learned form.
#ifndef YHW_FAKE_QUANT_POW2_CHECKS_H_
#define YHW_FAKE_QUANT_POW2_CHECKS_H_

#include <optional>

#include "core/learned_step.h"
#include "tensor_layout.h"

namespace yhw {

// A format without its fraction bits, and its modes.
struct FakeQuantMode {
  CodeRange range;
  Rounding rounding;
  Overflow overflow;
  int magnitude_bits;  // besides the sign
};

// Where the fraction bits come from: one number, or a tensor on the device of x, [1] or [x.size(axis)].
struct FracSource {
  enum class Kind { kNumber, kFracs, kTqt, kLsq };
  Kind kind;
  int number;            // kNumber
  const Tensor* values;  // the others: int32 fraction bits; float32 or float64 trained numbers
  int64_t axis;

  bool single() const { return values == nullptr || values->numel() == 1; }
};

// Fraction bits of one entry of a tensor of kind kFracs, kTqt or kLsq.
template <typename Value>
YHW_HD int frac_from(FracSource::Kind kind, Value value, int magnitude_bits) {
  switch (kind) {
    case FracSource::Kind::kTqt:
      return frac_of_log2_threshold(static_cast<double>(value), magnitude_bits);
    case FracSource::Kind::kLsq:
      return frac_of_scale(static_cast<double>(value));
    default:
      return static_cast<int>(value);
  }
}

inline FakeQuantMode check_fake_quant_mode(const char* op, int64_t bits, bool is_signed, int64_t rounding,
                                           int64_t overflow) {
  const CodeRange range = check_format(op, bits, kMaxBits, is_signed, rounding, overflow);
  return {range, static_cast<Rounding>(rounding), static_cast<Overflow>(overflow), range.bits - (is_signed ? 1 : 0)};
}

inline void check_fake_quant_type(const char* op, const Tensor& x) {
  const ScalarType type = x.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
                      type == ScalarType::BFloat16,
                  op, ": x must be float32, float64, float16 or bfloat16");
}

// A tensor with one entry for all of x, or one for each of its channels.
inline void check_per_channel(const char* op, const char* name, const Tensor& values, const Tensor& x, int64_t axis) {
  STD_TORCH_CHECK(values.device() == x.device(), op, ": ", name, " must be on the device of x");
  STD_TORCH_CHECK(values.dim() == 1, op, ": ", name, " must have 1 dimension, got ", values.dim());
  if (values.numel() != 1) {
    STD_TORCH_CHECK(axis >= 0 && axis < x.dim(), op, ": axis must be in [0, ", x.dim(), "), got ", axis);
    STD_TORCH_CHECK(values.numel() == x.size(axis), op, ": ", name, " must have 1 or ", x.size(axis),
                    " values (dimension ", axis, " of x), got ", values.numel());
  }
}

inline FracSource check_fracs(const char* op, const Tensor& x, int64_t frac, const std::optional<Tensor>& fracs,
                              int64_t axis) {
  check_fake_quant_type(op, x);
  if (!fracs.has_value()) {
    STD_TORCH_CHECK(frac >= -kMaxAbsFrac && frac <= kMaxAbsFrac, op, ": frac must be in [", -kMaxAbsFrac, ", ",
                    kMaxAbsFrac, "], got ", frac);
    return {FracSource::Kind::kNumber, static_cast<int>(frac), nullptr, 0};
  }
  STD_TORCH_CHECK(fracs->scalar_type() == ScalarType::Int, op, ": fracs must be int32");
  check_per_channel(op, "fracs", *fracs, x, axis);
  return {FracSource::Kind::kFracs, 0, &*fracs, axis};
}

inline FracSource check_learned(const char* op, const Tensor& x, const Tensor& parameter, int64_t axis,
                                int64_t gradient, const FakeQuantMode& mode) {
  check_fake_quant_type(op, x);
  STD_TORCH_CHECK(gradient == 0 || gradient == 1, op, ": gradient must be 0 (TQT) or 1 (LSQ), got ", gradient);
  STD_TORCH_CHECK(mode.overflow != Overflow::kWrap, op, ": overflow must saturate, wrapping has no step gradient");
  const ScalarType type = parameter.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, op,
                  ": parameter must be float32 or float64");
  check_per_channel(op, "parameter", parameter, x, axis);
  return {gradient == 0 ? FracSource::Kind::kTqt : FracSource::Kind::kLsq, 0, &parameter, axis};
}

// A result like x.
inline void check_out(const char* op, const char* name, const Tensor& out, const Tensor& x) {
  check_like(op, name, out, x, "x");
  STD_TORCH_CHECK(is_dense(geometry(out)), op, ": ", name, " must be dense (no gaps or overlaps between its elements)");
}

}  // namespace yhw

#endif  // YHW_FAKE_QUANT_POW2_CHECKS_H_
