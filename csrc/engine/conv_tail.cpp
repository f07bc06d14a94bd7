// SPDX-License-Identifier: Apache-2.0
#include "conv_tail.h"

namespace yhw {

PackedTail::PackedTail(const Requantiser& requant, const ConvTail& tail, int first_channel, int channels,
                       const View& out)
    : pools(tail.pools), first(first_channel), residual(tail.residual) {
  // Codes that are added next are stored as in a map of their own.
  epilogue = make_epilogue(requant, first, channels, residual ? residual->conv : out.storage);
  if (residual) {
    sum = make_epilogue(residual->requant, first, channels, out.storage);
  }
}

bool is_monotone(const Requantiser& requant) {
  const auto& p = requant.params;
  const bool shifts_right = std::all_of(requant.shift.begin(), requant.shift.end(),
                                        [&](int32_t shift) { return shift >= 0 && shift + p.shift_neg >= 0; });
  return requant.overflow != Overflow::kWrap && p.mul_pos >= 0 && p.mul_neg >= 0 && shifts_right &&
         std::is_sorted(requant.table.begin(), requant.table.end());
}

void TailWriter::store(int64_t at, int pixels) {
  const auto [first, blocks] = lanes_;
  const int channel = tail_.first + first;
  uint8_t* to = out_.pixel(at) + channel * out_.storage.bytes;
  if (!tail_.residual) {
    kernels_.finish(tail_.epilogue, acc_, first, blocks, pixels, to, out_.pixel_bytes());
    return;
  }
  const Residual& residual = *tail_.residual;
  const Storage stored = tail_.epilogue.out;
  const int64_t spacing = int64_t{blocks} * kLanes * stored.bytes;
  const int channels = std::min(blocks * kLanes, tail_.epilogue.channels - first);
  kernels_.finish(tail_.epilogue, acc_, first, blocks, pixels, codes_, spacing);
  kernels_.add_tile({codes_, spacing, pixels, channels, stored}, residual.left_conv, true, acc_);
  const View& map = residual.map;
  kernels_.add_tile({map.pixel(at) + channel * map.storage.bytes, map.pixel_bytes(), pixels, channels, map.storage},
                    residual.left_map, false, acc_);
  kernels_.finish(tail_.sum, acc_, first, blocks, pixels, to, out_.pixel_bytes());
}

}  // namespace yhw
