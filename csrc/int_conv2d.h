// SPDX-License-Identifier: Apache-2.0
// The host side of int_conv2d, the same for every device: check, bring into NHWC, allocate, choose the type of code.
// A device is a struct with check_shifts(args) and run<Code>(like, args), Code int8_t or uint8_t, both static.
#ifndef YHW_INT_CONV2D_H_
#define YHW_INT_CONV2D_H_

#include <torch/csrc/stable/ops.h>

#include <array>
#include <limits>
#include <string>
#include <vector>

#include "checks.h"
#include "core/requant_modes.h"

namespace yhw {

// Sizes of a convolution; [2] is vertical, horizontal. Pixels are stored as NHWC, weights as [K, R, S, C / groups].
struct ConvSizes {
  int n, c, h, w;    // input
  int k, ho, wo;     // output
  int r, s, groups;  // kernel
  int stride[2], padding[2], dilation[2];

  YHW_HD_MEMBER int group_inputs() const { return c / groups; }
  YHW_HD_MEMBER int group_outputs() const { return k / groups; }
  // Products of an output value.
  YHW_HD_MEMBER int depth() const { return r * s * group_inputs(); }
  YHW_HD_MEMBER int64_t pixels() const { return static_cast<int64_t>(n) * ho * wo; }
};

// The type of the values in a table or an output.
enum class CodeType { kInt8, kUint8, kInt16 };

// From accumulators to stored codes.
struct ConvOutput {
  RequantParams<int64_t, int32_t> requant;
  Rounding rounding;
  Overflow overflow;
  const int32_t* bias;   // [K]
  const int32_t* shift;  // [K]
  const void* table;     // [2^bits] of `type`, or null
  CodeType type;

  // The code of channel k's accumulator, without its bias.
  YHW_HD_MEMBER int code(int acc, int k) const {
    const auto sum = static_cast<int32_t>(static_cast<uint32_t>(acc) + static_cast<uint32_t>(bias[k]));
    const int64_t code = requant_code(rounding, overflow, static_cast<int64_t>(sum), shift[k], requant);
    if (table == nullptr) {
      return static_cast<int>(clamp_code(code, requant));
    }
    return entry(code - requant.code_lo);
  }

  // Entry i of the table.
  YHW_HD_MEMBER int entry(int64_t i) const {
    return type == CodeType::kInt8    ? static_cast<const int8_t*>(table)[i]
           : type == CodeType::kUint8 ? static_cast<const uint8_t*>(table)[i]
                                      : static_cast<const int16_t*>(table)[i];
  }

  YHW_HD_MEMBER void store(void* y, int64_t i, int code) const {
    if (type == CodeType::kInt16) {
      static_cast<int16_t*>(y)[i] = static_cast<int16_t>(code);
    } else {
      static_cast<uint8_t*>(y)[i] = static_cast<uint8_t>(code);
    }
  }
};

struct IntConv2dArgs {
  ConvSizes sizes;
  ConvOutput output;
  const void* x;          // [N, H, W, C] of Code
  const int8_t* weights;  // [K, R, S, C / groups]
  // outputs
  void* y;  // [N, Ho, Wo, K] of output.type
};

// Shifts of docs/numerics.md section 5.
constexpr int kMinShift = -16;
constexpr int kMaxShift = 47;
constexpr int64_t kMaxFactor = 32767;
// Of a dimension: positions in the padded input then fit an int.
constexpr int64_t kMaxSize = int64_t{1} << 30;

inline void check_shift(int64_t shift, int64_t shift_neg) {
  STD_TORCH_CHECK(
      shift >= kMinShift && shift <= kMaxShift && shift + shift_neg >= kMinShift && shift + shift_neg <= kMaxShift,
      "int_conv2d: shift and shift + shift_neg must be in [", kMinShift, ", ", kMaxShift, "], got ", shift, " and ",
      shift + shift_neg);
}

inline std::array<int, 2> check_pair(const std::vector<int64_t>& values, int64_t least, const char* name) {
  const bool legal = values.size() == 2 && values[0] >= least && values[1] >= least &&
                     values[0] <= std::numeric_limits<int16_t>::max() &&
                     values[1] <= std::numeric_limits<int16_t>::max();
  STD_TORCH_CHECK(legal, "int_conv2d: ", name, " must be 2 numbers in [", least, ", 32767]");
  return {static_cast<int>(values[0]), static_cast<int>(values[1])};
}

inline int check_size(const Tensor& tensor, int64_t dimension, const char* name) {
  const int64_t size = tensor.size(dimension);
  STD_TORCH_CHECK(size <= kMaxSize, "int_conv2d: dimension ", dimension, " of ", name, " must be at most ", kMaxSize,
                  ", got ", size);
  return static_cast<int>(size);
}

inline int output_size(int in, int kernel, int stride, int padding, int dilation) {
  const int64_t room = int64_t{in} + 2 * int64_t{padding} - int64_t{dilation} * (kernel - 1) - 1;
  STD_TORCH_CHECK(room >= 0, "int_conv2d: the kernel must not be larger than the padded input, got ", kernel,
                  " taps, dilation ", dilation, ", on ", in, " + 2 * ", padding);
  return static_cast<int>(room / stride + 1);
}

inline ConvSizes check_sizes(const Tensor& x, const Tensor& weight, const std::vector<int64_t>& stride,
                             const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation,
                             int64_t groups) {
  STD_TORCH_CHECK(x.dim() == 4, "int_conv2d: x must have 4 dimensions, got ", x.dim());
  STD_TORCH_CHECK(weight.dim() == 4, "int_conv2d: weight must have 4 dimensions, got ", weight.dim());
  const std::array<int, 2> step = check_pair(stride, 1, "stride"), pad = check_pair(padding, 0, "padding"),
                           spread = check_pair(dilation, 1, "dilation");
  const int n = check_size(x, 0, "x"), c = check_size(x, 1, "x"), h = check_size(x, 2, "x"), w = check_size(x, 3, "x");
  const int k = check_size(weight, 0, "weight"), r = check_size(weight, 2, "weight"),
            s = check_size(weight, 3, "weight");
  STD_TORCH_CHECK(c > 0 && k > 0 && r > 0 && s > 0, "int_conv2d: x must have channels, and weight no dimension of 0");
  STD_TORCH_CHECK(groups > 0 && c % groups == 0 && k % groups == 0, "int_conv2d: groups must divide ", c, " and ", k,
                  " channels, got ", groups);
  STD_TORCH_CHECK(weight.size(1) * groups == c, "int_conv2d: weight must have ", c / groups,
                  " input channels per group, got ", weight.size(1));
  STD_TORCH_CHECK(weight.size(1) * r * s <= std::numeric_limits<int>::max() - 64,
                  "int_conv2d: an output must have less than 2^31 products");
  return {n,
          c,
          h,
          w,
          k,
          output_size(h, r, step[0], pad[0], spread[0]),
          output_size(w, s, step[1], pad[1], spread[1]),
          r,
          s,
          static_cast<int>(groups),
          {step[0], step[1]},
          {pad[0], pad[1]},
          {spread[0], spread[1]}};
}

inline void check_vector(const Tensor& tensor, const Tensor& x, int64_t length, const char* name) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Int, "int_conv2d: ", name, " must be int32");
  STD_TORCH_CHECK(tensor.device() == x.device(), "int_conv2d: ", name, " must be on the device of x");
  STD_TORCH_CHECK(tensor.dim() == 1 && tensor.size(0) == length, "int_conv2d: ", name, " must have shape [", length,
                  "]");
}

// The type of the output: the table's; without a table, int8 if the format has negative codes, else uint8.
inline CodeType check_code_type(const Tensor& table, const Tensor& x, const std::vector<int64_t>& requant) {
  const int64_t lo = requant[3], hi = requant[4], bits = requant[5];
  STD_TORCH_CHECK(bits >= kMinBits && bits <= kMaxBits && hi - lo == (int64_t{1} << bits) - 1 &&
                      (lo == 0 || lo == -(int64_t{1} << (bits - 1))),
                  "int_conv2d: code_lo, code_hi, code_bits must be a format of 2 to 16 bits, got ", lo, ", ", hi, ", ",
                  bits);
  if (table.numel() == 0) {
    const int64_t least = lo < 0 ? -128 : 0, most = lo < 0 ? 127 : 255;
    STD_TORCH_CHECK(requant[6] <= requant[7] && requant[6] >= least && requant[7] <= most,
                    "int_conv2d: clamp_lo, clamp_hi must be ascending in [", least, ", ", most, "], got ", requant[6],
                    ", ", requant[7]);
    return lo < 0 ? CodeType::kInt8 : CodeType::kUint8;
  }
  STD_TORCH_CHECK(table.device() == x.device(), "int_conv2d: table must be on the device of x");
  STD_TORCH_CHECK(table.dim() == 1 && table.size(0) == int64_t{1} << bits, "int_conv2d: table must have shape [",
                  int64_t{1} << bits, "] or be empty");
  const ScalarType type = table.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Char || type == ScalarType::Byte || type == ScalarType::Short,
                  "int_conv2d: table must be int8, uint8 or int16");
  return type == ScalarType::Char ? CodeType::kInt8 : type == ScalarType::Byte ? CodeType::kUint8 : CodeType::kInt16;
}

// requant: mul_pos, mul_neg, shift_neg, code_lo, code_hi, code_bits, clamp_lo, clamp_hi, rounding, overflow.
inline ConvOutput check_requant(const std::vector<int64_t>& requant, const Tensor& table, const Tensor& x) {
  STD_TORCH_CHECK(requant.size() == 10, "int_conv2d: requant must have 10 numbers, got ", requant.size());
  for (const int i : {0, 1}) {
    STD_TORCH_CHECK(requant[i] >= -kMaxFactor && requant[i] <= kMaxFactor, "int_conv2d: mul_pos, mul_neg must be in [",
                    -kMaxFactor, ", ", kMaxFactor, "], got ", requant[i]);
  }
  const int64_t most = kMaxShift - kMinShift;
  STD_TORCH_CHECK(requant[2] >= -most && requant[2] <= most, "int_conv2d: shift_neg must be in [", -most, ", ", most,
                  "], got ", requant[2]);
  STD_TORCH_CHECK(requant[8] >= 0 && requant[8] <= 3, "int_conv2d: rounding must be in [0, 3], got ", requant[8]);
  STD_TORCH_CHECK(requant[9] >= 0 && requant[9] <= 2, "int_conv2d: overflow must be in [0, 2], got ", requant[9]);
  const CodeType type = check_code_type(table, x, requant);
  return {{static_cast<int32_t>(requant[0]), static_cast<int32_t>(requant[1]), static_cast<int>(requant[2]), requant[3],
           requant[4], static_cast<int>(requant[5]), requant[6], requant[7]},
          static_cast<Rounding>(requant[8]),
          static_cast<Overflow>(requant[9]),
          nullptr,
          nullptr,
          nullptr,
          type};
}

// x: [N, C, H, W]; weight: [K, C / groups, R, S]; bias, shift: [K]; table: [2^code_bits] or [0].
template <typename Device>
Tensor int_conv2d(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& shift,
                  std::vector<int64_t> stride, std::vector<int64_t> padding, std::vector<int64_t> dilation,
                  int64_t groups, std::vector<int64_t> requant, const Tensor& table) {
  using torch::headeronly::MemoryFormat;
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Byte || x.scalar_type() == ScalarType::Char,
                  "int_conv2d: x must be uint8 or int8");
  STD_TORCH_CHECK(weight.scalar_type() == ScalarType::Char, "int_conv2d: weight must be int8");
  STD_TORCH_CHECK(weight.device() == x.device(), "int_conv2d: weight must be on the device of x");
  IntConv2dArgs args{};
  args.sizes = check_sizes(x, weight, stride, padding, dilation, groups);
  check_vector(bias, x, args.sizes.k, "bias");
  check_vector(shift, x, args.sizes.k, "shift");
  args.output = check_requant(requant, table, x);
  const Tensor in = torch::stable::contiguous(x, MemoryFormat::ChannelsLast);
  const Tensor weights = torch::stable::contiguous(weight, MemoryFormat::ChannelsLast);
  const Tensor biases = torch::stable::contiguous(bias), shifts = torch::stable::contiguous(shift);
  const Tensor entries = torch::stable::contiguous(table);
  const ScalarType types[] = {ScalarType::Char, ScalarType::Byte, ScalarType::Short};
  const std::array<int64_t, 4> shape{args.sizes.n, args.sizes.k, args.sizes.ho, args.sizes.wo};
  Tensor y = torch::stable::empty({shape.data(), shape.size()}, types[static_cast<int>(args.output.type)], std::nullopt,
                                  x.device(), std::nullopt, MemoryFormat::ChannelsLast);
  args.output.bias = static_cast<const int32_t*>(biases.const_data_ptr());
  args.output.shift = static_cast<const int32_t*>(shifts.const_data_ptr());
  args.output.table = entries.numel() == 0 ? nullptr : entries.const_data_ptr();
  args.x = in.const_data_ptr();
  args.weights = static_cast<const int8_t*>(weights.const_data_ptr());
  args.y = y.mutable_data_ptr();
  Device::check_shifts(args);
  if (y.numel() > 0) {
    x.scalar_type() == ScalarType::Byte ? Device::template run<uint8_t>(in, args)
                                        : Device::template run<int8_t>(in, args);
  }
  return y;
}

}  // namespace yhw

#endif  // YHW_INT_CONV2D_H_
