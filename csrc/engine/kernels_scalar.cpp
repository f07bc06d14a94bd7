// SPDX-License-Identifier: Apache-2.0
// Kernels for any machine, compiled with the compiler's baseline instruction set.
#include "kernels_impl.h"

namespace yhw {
namespace {

struct Lanes {
  int32_t at[kLanes];
};

// `Value` by `Weight` in steps of kStepBytes; sums wrap modulo 2^32 as the instruction sets' do.
template <typename Value, typename Weight>
struct ScalarDot {
  using Acc = Lanes;
  using Weights = const Weight*;
  static constexpr int kCodes = kStepBytes / static_cast<int>(sizeof(Value));
  static constexpr int kWeightBytes = kLanes * kCodes * static_cast<int>(sizeof(Weight));

  struct Step {
    int32_t at[kCodes];
  };

  static YHW_INLINE Lanes load(const int32_t* from) {
    Lanes acc;
    std::memcpy(acc.at, from, sizeof(acc.at));
    return acc;
  }
  static YHW_INLINE void store(int32_t* to, const Lanes& acc) { std::memcpy(to, acc.at, sizeof(acc.at)); }
  static YHW_INLINE const Weight* weights(const uint8_t* from) { return reinterpret_cast<const Weight*>(from); }
  static YHW_INLINE Step input(const uint8_t* from) {
    Value values[kCodes];
    std::memcpy(values, from, sizeof(values));
    Step step;
    for (int i = 0; i < kCodes; ++i) {
      step.at[i] = values[i];
    }
    return step;
  }
  static YHW_INLINE void add(Lanes& acc, const Step& x, const Weight* w) {
    for (int k = 0; k < kLanes; ++k) {
      auto sum = static_cast<uint32_t>(acc.at[k]);
      for (int i = 0; i < kCodes; ++i) {
        sum += static_cast<uint32_t>(x.at[i] * w[k * kCodes + i]);
      }
      acc.at[k] = static_cast<int32_t>(sum);
    }
  }
};

struct ScalarIsa {
  static constexpr const char* kName = "scalar";
  static constexpr WeightLayout kLayout = WeightLayout::kBytes;
  using Bytes = ScalarDot<uint8_t, int8_t>;
  using Words = ScalarDot<int16_t, int16_t>;
  static constexpr int kMaxBlocks = 1;
  static constexpr int kTilePixels[] = {0, 2, 0, 0, 0};
  static constexpr int kSparsePixels = 2;

  static constexpr bool kInterleaves = false;
  using Packer = PlainPacker;
};

}  // namespace

const Kernels& scalar_kernels() { return make_kernels<ScalarIsa>(); }

}  // namespace yhw
