// SPDX-License-Identifier: Apache-2.0
// A Requantiser prepared for one run of output channels: constants per lane, so that a kernel turns 16 accumulators
// into codes at once.
#ifndef YHW_ENGINE_EPILOGUE_H_
#define YHW_ENGINE_EPILOGUE_H_

#include <cstdint>
#include <vector>

#include "requantiser.h"
#include "view.h"

namespace yhw {

// Output channels computed together; weights, accumulators and constants are padded to a multiple of it.
constexpr int kLanes = 16;

// The shift of the accumulators of one sign, per lane: shift_rounded(acc * mul, shift, bias, unit) of core/rounding.h.
struct LaneShift {
  std::vector<int32_t> shift, bias, unit;  // [lanes]
};

struct Epilogue {
  Requantiser spec;
  int channels = 0;
  Storage out;
  // Whether 32 bits are enough: accumulators are clamped to [acc_lo, acc_hi] first, outside of which the code saturates
  // anyway, and then products and rounding constants fit.
  bool narrow = false;
  bool clamps = false;     // acc_lo and acc_hi do something
  bool two_sided = false;  // negative accumulators have their own factor or shift
  LaneShift positive, negative;
  std::vector<int32_t> acc_lo, acc_hi;  // [lanes]
  int32_t code_lo = 0, code_hi = 0;     // of the output, or of the table's argument
  std::vector<int32_t> table;           // stored outputs by `code - spec.params.code_lo`, or empty
  std::vector<uint8_t> byte_table;      // the same in 256 bytes, where arguments and outputs are bytes
};

// The epilogue of channels [first, first + channels) of a node.
Epilogue make_epilogue(const Requantiser& spec, int first, int channels, Storage out);

}  // namespace yhw

#endif  // YHW_ENGINE_EPILOGUE_H_
