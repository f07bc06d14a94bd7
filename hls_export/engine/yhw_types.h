// SPDX-License-Identifier: Apache-2.0
// The number types of the accelerator, for plain g++ and for the HLS tool or its simulation headers.
//
// yhw_config.h, written by the export, gives the parameters:
//   YHW_TM, YHW_TN          output and input channels of the multiply-accumulate tile
//   YHW_LANES               channels of one memory word, a power of two that divides both
//   YHW_DATA_BITS           longest word of any feature map, 8 or 16
//   YHW_WEIGHT_BITS         longest word of any weight, 8 or 16
//   YHW_ACC_BITS            proven width of all accumulators, 32 or 48
//   YHW_TABLE_BITS          longest argument of an activation table
//   YHW_IFM_WORDS, YHW_ACC_WORDS, YHW_MAX_TAPS   sizes of the on-chip buffers
//   YHW_ROUNDING, YHW_OVERFLOW                   the numeric contract
// Define YHW_AP to use ap_int.h (Vitis HLS, or the Apache-2.0 headers in the hls4ml wheel).
#ifndef YHW_TYPES_H_
#define YHW_TYPES_H_

#include <stdint.h>

#include "core/requant.h"
#include "yhw_config.h"
#include "yhw_descriptor.h"

#if defined(YHW_AP)
#include <ap_int.h>
#endif

// A stage of the accelerator is a function of its own. For g++ it must stay one: where GCC 12 at -O2 propagates the
// addresses of the on-chip buffers into these functions (-fipa-cp, -fivopts), it has merged their address arithmetic
// and computed wrong sums, in source that its sanitizers find nothing in.
#if defined(__GNUC__) && !defined(__clang__) && !defined(__SYNTHESIS__)
#define YHW_STAGE static __attribute__((noipa))
#else
#define YHW_STAGE static
#endif

namespace yhw {

constexpr int kTm = YHW_TM;
constexpr int kTn = YHW_TN;
constexpr int kLanes = YHW_LANES;
constexpr int kImageLanes = 4;                                // channels of a pixel of a packed image
constexpr int kChannels = YHW_TM < YHW_TN ? YHW_TM : YHW_TN;  // of the depthwise mode and of pools
constexpr int kRowBanks = 8;
constexpr int kIfmWords = YHW_IFM_WORDS;
constexpr int kBankWords = YHW_IFM_WORDS / kRowBanks;
constexpr int kAccWords = YHW_ACC_WORDS;
constexpr int kMaxTaps = YHW_MAX_TAPS;
constexpr int kMaxDepthwise = 7;  // largest kernel of the depthwise mode
constexpr int kMaxCodeBytes = YHW_DATA_BITS <= 8 ? 1 : 2;
constexpr int kMaxWeightBytes = YHW_WEIGHT_BITS <= 8 ? 1 : 2;
constexpr int kFactorBits = 17;  // of a requantisation factor, at most 2^16 - 1
constexpr int kMinShift = -16;   // of an output shift
constexpr int kMaxShift = 47;
constexpr int kTableSize = 1 << YHW_TABLE_BITS;
constexpr Rounding kRounding = static_cast<Rounding>(YHW_ROUNDING);
constexpr Overflow kOverflow = static_cast<Overflow>(YHW_OVERFLOW);

// What the buffers bound: the largest trip counts of the loops.
constexpr int kLineWords = kBankWords * kMaxCodeBytes;  // memory words of what a row bank holds
constexpr int kTileRowWords = kAccWords * kMaxCodeBytes;
constexpr int kChannelWords = 8 * kTm / kLanes;  // bias and shift of an output tile
constexpr int kWeightWords = kMaxTaps * (kTm * kTn / kLanes) * kMaxWeightBytes;
constexpr int kTableWords = 2 * kTableSize / kLanes;
constexpr int kOutputPieces = kTm / kLanes;
constexpr int kInputPieces = kTn / kLanes;
constexpr int kBankCodes = kBankWords * kLanes;

// Accumulators are read and written every cycle; a pixel must not come round again before its sum has left the
// pipeline. The DEPENDENCE pragmas of these loops repeat the number.
constexpr int kMinPixels = 16;

static_assert(kTm % kLanes == 0 && kTn % kLanes == 0, "YHW_LANES must divide YHW_TM and YHW_TN");
static_assert((kLanes & (kLanes - 1)) == 0, "YHW_LANES must be a power of two");
static_assert(kLanes >= kImageLanes, "a memory word must hold a pixel of the image, and a 32-bit value");
static_assert(kIfmWords % kRowBanks == 0, "YHW_IFM_WORDS must be a multiple of the row banks");
static_assert(kBankWords >= 8, "a row bank also holds the words of an image row");
static_assert(kMaxDepthwise <= kRowBanks, "a depthwise window's rows must be in different banks");
static_assert(YHW_MAX_INPUTS <= kRowBanks, "an add keeps each of its inputs in a row bank");
static_assert(kAccWords >= kMinPixels, "the accumulators of kMinPixels pixels must fit");

#if defined(YHW_AP)
typedef ap_int<YHW_DATA_BITS + 1> data_t;  // a code, signed or unsigned
typedef ap_int<YHW_WEIGHT_BITS> weight_t;
typedef ap_int<YHW_ACC_BITS> acc_t;
typedef ap_int<kFactorBits> factor_t;
typedef ap_int<64> wide_t;              // accumulator times factor, and what the rounding adds
typedef ap_uint<8 * YHW_LANES> word_t;  // one beat of memory

// Products: an ap_int product has the width of both factors together, so no multiplier is wider than that.
YHW_HD acc_t multiply(data_t a, weight_t b) { return a * b; }
YHW_HD acc_t multiply_codes(data_t a, data_t b) { return a * b; }
YHW_HD wide_t scale(acc_t a, factor_t b) { return a * b; }
#else
#if YHW_DATA_BITS <= 8
typedef int16_t data_t;
#else
typedef int32_t data_t;
#endif
#if YHW_WEIGHT_BITS <= 8
typedef int8_t weight_t;
#else
typedef int16_t weight_t;
#endif
#if YHW_ACC_BITS <= 32
typedef int32_t acc_t;
#else
typedef int64_t acc_t;
#endif
typedef int32_t factor_t;
typedef int64_t wide_t;
struct word_t {
  uint8_t byte[YHW_LANES];
};

YHW_HD acc_t multiply(data_t a, weight_t b) { return static_cast<acc_t>(a) * static_cast<acc_t>(b); }
YHW_HD acc_t multiply_codes(data_t a, data_t b) { return static_cast<acc_t>(a) * static_cast<acc_t>(b); }
YHW_HD wide_t scale(acc_t a, factor_t b) { return static_cast<wide_t>(a) * b; }
#endif

YHW_HD int smaller(int a, int b) { return a < b ? a : b; }
YHW_HD int larger(int a, int b) { return a > b ? a : b; }
YHW_HD int divide_up(int a, int b) { return (a + b - 1) / b; }

}  // namespace yhw

#endif  // YHW_TYPES_H_
