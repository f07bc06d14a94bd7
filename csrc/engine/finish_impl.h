// SPDX-License-Identifier: Apache-2.0
// From accumulators to stored codes, 16 channels at a time: the formula of core/requant.h on vectors, and element by
// element where 32 bits are not enough. Included by kernels_impl.h.
#ifndef YHW_ENGINE_FINISH_IMPL_H_
#define YHW_ENGINE_FINISH_IMPL_H_

#include <cstring>

#include "../core/with_modes.h"
#include "kernels.h"
#include "vec.h"

namespace yhw {
namespace {

// The shift of one sign for a block of lanes.
struct ShiftVec {
  Vec shift, bias, unit;

  YHW_INLINE ShiftVec(const LaneShift& lanes, int first)
      : shift(load_vec(lanes.shift.data() + first)),
        bias(load_vec(lanes.bias.data() + first)),
        unit(load_vec(lanes.unit.data() + first)) {}
};

// What becomes of a block of codes.
enum class Sink {
  kBytes,  // stored as bytes, by the instruction set's own packer
  kAny     // two bytes wide, or looked up in a table that is
};

// Where codes are stored as bytes, and between which ones. A code is packed as `code + zero`, which is not negative,
// and stored as that plus `rebase`, modulo 256, or as what a table has for it.
struct ByteSink {
  uint8_t lo, hi, zero;  // the first two are packed
  uint8_t rebase;
  int count;             // channels
  int64_t spacing;       // bytes from one pixel to the next
  const uint8_t* table;  // [256], or null
};

inline ByteSink byte_sink(const Epilogue& e, int count, int64_t spacing) {
  const bool looks_up = !e.byte_table.empty();
  const int zero = looks_up ? static_cast<int>(-e.spec.params.code_lo) : e.code_lo < 0 ? 128 : 0;
  const auto byte = [](int value) { return static_cast<uint8_t>(value); };
  return {byte(e.code_lo + zero),
          byte(e.code_hi + zero),
          byte(zero),
          byte(looks_up ? 0 : e.out.zero - zero),
          count,
          spacing,
          looks_up ? e.byte_table.data() : nullptr};
}

// Replaces kLanes bytes by what a table has for them.
YHW_INLINE void look_up(const uint8_t* table, uint8_t* bytes) {
  for (int k = 0; k < kLanes; ++k) {
    bytes[k] = table[bytes[k]];
  }
}

// Packs with the compiler's own conversions.
class PlainPacker {
 public:
  explicit PlainPacker(const ByteSink& sink) : sink_(sink) {}

  // Clamps and stores `pixels` of kPackedPixels blocks of shifted accumulators.
  YHW_INLINE void store(const Vec* shifted, int pixels, uint8_t* to) const {
    for (int p = 0; p < pixels; ++p) {
      const Vec stored = min_vec(max_vec(shifted[p], splat(sink_.lo - sink_.zero)), splat(sink_.hi - sink_.zero));
      uint8_t bytes[kLanes];
      store_all_bytes(bytes, stored + splat(sink_.zero + sink_.rebase));
      if (sink_.table != nullptr) {
        look_up(sink_.table, bytes);
      }
      std::memcpy(to + p * sink_.spacing, bytes, static_cast<size_t>(sink_.count));
    }
  }

 private:
  ByteSink sink_;
};

// Stores code k of a pixel.
inline void store_code(Storage storage, int64_t stored, int k, uint8_t* to) {
  if (storage.bytes == 1) {
    to[k] = static_cast<uint8_t>(stored);
  } else {
    const auto word = static_cast<int16_t>(stored);
    std::memcpy(to + 2 * k, &word, sizeof(word));
  }
}

// Stores `count` of kLanes codes.
inline void sink_any(const Epilogue& e, Vec code, int count, uint8_t* to) {
  for (int k = 0; k < count; ++k) {
    const int32_t stored =
        e.table.empty() ? code[k] + e.out.zero : e.table[static_cast<size_t>(code[k] - e.spec.params.code_lo)];
    store_code(e.out, stored, k, to);
  }
}

// The requantisation of a block of lanes but for the clamp of the code.
template <Rounding kRounding, bool kTwoSided, bool kClamps>
struct BlockRequant {
  ShiftVec positive, negative;
  Vec acc_lo, acc_hi, mul_pos, mul_neg;

  YHW_INLINE BlockRequant(const Epilogue& e, int first)
      : positive(e.positive, first),
        negative(e.negative, first),
        acc_lo(load_vec(e.acc_lo.data() + first)),
        acc_hi(load_vec(e.acc_hi.data() + first)),
        mul_pos(splat(static_cast<int32_t>(e.spec.params.mul_pos))),
        mul_neg(splat(static_cast<int32_t>(e.spec.params.mul_neg))) {}

  YHW_INLINE Vec operator()(const Vec& acc) const {
    return in_parts([&](int i) __attribute__((always_inline)) { return part(part_of(acc, i), i); });
  }

 private:
  YHW_INLINE Part part(Part v, int i) const {
    if (kClamps) {
      v = min_part(max_part(v, part_of(acc_lo, i)), part_of(acc_hi, i));
    }
    const Part shift = part_of(positive.shift, i), bias = part_of(positive.bias, i), unit = part_of(positive.unit, i);
    if (!kTwoSided) {
      return shift_rounded<kRounding>(v * part_of(mul_pos, i), shift, bias, unit);
    }
    const Part is_negative = v < Part{};
    const auto choose = [&](const Vec& below, Part above)
                            __attribute__((always_inline)) { return is_negative ? part_of(below, i) : above; };
    return shift_rounded<kRounding>(v * choose(mul_neg, part_of(mul_pos, i)), choose(negative.shift, shift),
                                    choose(negative.bias, bias), choose(negative.unit, unit));
  }
};

template <class Isa, Rounding kRounding, Sink kSink, bool kTwoSided, bool kClamps>
void finish_block(const Epilogue& e, const int32_t* acc, int64_t acc_step, int first, int pixels, uint8_t* out,
                  int64_t spacing) {
  const BlockRequant<kRounding, kTwoSided, kClamps> requant(e, first);
  const int count = e.channels - first < kLanes ? e.channels - first : kLanes;
  if (kSink == Sink::kBytes) {
    const typename Isa::Packer packer(byte_sink(e, count, spacing));
    for (int p = 0; p < pixels; p += kPackedPixels) {
      Vec shifted[kPackedPixels];
      YHW_UNROLL
      for (int i = 0; i < kPackedPixels; ++i) {
        shifted[i] = requant(load_vec(acc + (p + i) * acc_step));
      }
      packer.store(shifted, pixels - p < kPackedPixels ? pixels - p : kPackedPixels, out + p * spacing);
    }
    return;
  }
  const Vec lo = splat(e.code_lo), hi = splat(e.code_hi);
  for (int p = 0; p < pixels; ++p) {
    const Vec code = min_vec(max_vec(requant(load_vec(acc + p * acc_step)), lo), hi);
    sink_any(e, code, count, out + p * spacing);
  }
}

template <class Isa, Rounding kRounding, Sink kSink>
void finish_narrow(const Epilogue& e, const int32_t* acc, int64_t acc_step, int first, int pixels, uint8_t* out,
                   int64_t spacing) {
  if (e.two_sided) {
    e.clamps ? finish_block<Isa, kRounding, kSink, true, true>(e, acc, acc_step, first, pixels, out, spacing)
             : finish_block<Isa, kRounding, kSink, true, false>(e, acc, acc_step, first, pixels, out, spacing);
  } else {
    e.clamps ? finish_block<Isa, kRounding, kSink, false, true>(e, acc, acc_step, first, pixels, out, spacing)
             : finish_block<Isa, kRounding, kSink, false, false>(e, acc, acc_step, first, pixels, out, spacing);
  }
}

// Any accumulator, any mode: 64 bits, one element after the other.
template <Rounding kRounding, Overflow kOverflow, typename Acc>
void finish_each(const Epilogue& e, const Acc* acc, int64_t acc_step, int first, int pixels, uint8_t* out,
                 int64_t spacing) {
  const auto& params = e.spec.params;
  const int count = e.channels - first < kLanes ? e.channels - first : kLanes;
  const int32_t* shift = e.spec.shift.data() + first;
  for (int p = 0; p < pixels; ++p) {
    const Acc* from = acc + p * acc_step;
    uint8_t* to = out + p * spacing;
    for (int k = 0; k < count; ++k) {
      const int64_t code = requant_code<kRounding, kOverflow>(static_cast<int64_t>(from[k]), shift[k], params);
      const int64_t stored =
          e.table.empty() ? clamp_code(code, params) + e.out.zero : e.table[static_cast<size_t>(code - params.code_lo)];
      store_code(e.out, stored, k, to);
    }
  }
}

template <Rounding kRounding, typename Acc>
void finish_wide_rounding(const Epilogue& e, const Acc* acc, int64_t acc_step, int first, int pixels, uint8_t* out,
                          int64_t spacing) {
  with_overflow(e.spec.overflow, [&](auto overflow) {
    finish_each<kRounding, overflow()>(e, acc, acc_step, first, pixels, out, spacing);
  });
}

template <class Isa>
void finish(const Epilogue& e, const int32_t* acc, int first, int blocks, int pixels, uint8_t* out, int64_t spacing) {
  with_rounding(e.spec.rounding, [&](auto rounding) {
    for (int b = 0; b < blocks; ++b) {
      const int channel = first + b * kLanes;
      uint8_t* to = out + static_cast<int64_t>(b) * kLanes * e.out.bytes;
      if (e.narrow && e.out.bytes == 1 && e.table.empty() == e.byte_table.empty()) {
        finish_narrow<Isa, rounding(), Sink::kBytes>(e, acc + b * kLanes, blocks * kLanes, channel, pixels, to,
                                                     spacing);
      } else if (e.narrow) {
        finish_narrow<Isa, rounding(), Sink::kAny>(e, acc + b * kLanes, blocks * kLanes, channel, pixels, to, spacing);
      } else {
        finish_wide_rounding<rounding()>(e, acc + b * kLanes, blocks * kLanes, channel, pixels, to, spacing);
      }
    }
  });
}

template <class Isa>
void finish_wide(const Epilogue& e, const int64_t* acc, int first, int blocks, int pixels, uint8_t* out,
                 int64_t spacing) {
  with_rounding(e.spec.rounding, [&](auto rounding) {
    for (int b = 0; b < blocks; ++b) {
      uint8_t* to = out + static_cast<int64_t>(b) * kLanes * e.out.bytes;
      finish_wide_rounding<rounding()>(e, acc + b * kLanes, blocks * kLanes, first + b * kLanes, pixels, to, spacing);
    }
  });
}

}  // namespace
}  // namespace yhw

#endif  // YHW_ENGINE_FINISH_IMPL_H_
