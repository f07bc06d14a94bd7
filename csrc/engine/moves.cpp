// SPDX-License-Identifier: Apache-2.0
// Operations that only move or select codes: max pool, copy (a concat's input), upsample, permutation (reorg).
#include <cstring>
#include <utility>

#include "op.h"

namespace yhw {
namespace {

class MaxPoolOp final : public Op {
 public:
  MaxPoolOp(const Window& window, View in, View out) : window_(window), in_(in), out_(out) {}

  ScratchNeed scratch() const override { return {static_cast<size_t>(in_.row_bytes()), 0}; }

  void run(const RunContext& context) const override {
    parallel_rows(context.pool, out_.h, [&](int worker, int y) {
      context.kernels.maxpool_row(window_, in_, y, out_, context.scratch_of(worker));
    });
  }

 private:
  Window window_;
  View in_, out_;
};

// Nearest-neighbour enlargement; a plain copy is the case stride 1.
class UpsampleOp final : public Op {
 public:
  UpsampleOp(int stride, View in, View out) : stride_(stride), in_(in), out_(out) {}

  void run(const RunContext& context) const override {
    parallel_rows(context.pool, in_.h, [&](int, int y) {
      for (int x = 0; x < in_.w; ++x) {
        for (int i = 0; i < stride_; ++i) {
          for (int j = 0; j < stride_; ++j) {
            copy_pixel(in_.at(y, x), out_.at(y * stride_ + i, x * stride_ + j));
          }
        }
      }
    });
  }

 private:
  void copy_pixel(const uint8_t* from, uint8_t* to) const {
    if (in_.storage == out_.storage) {
      std::memcpy(to, from, static_cast<size_t>(in_.c) * static_cast<size_t>(in_.storage.bytes));
      return;
    }
    for (int c = 0; c < in_.c; ++c) {
      set_code(out_, to, c, code_at(in_, from, c));
    }
  }

  int stride_;
  View in_, out_;
};

class PermuteOp final : public Op {
 public:
  PermuteOp(std::vector<int32_t> sources, View in, View out) : sources_(std::move(sources)), in_(in), out_(out) {}

  void run(const RunContext& context) const override {
    parallel_rows(context.pool, out_.h, [&](int, int y) {
      for (int x = 0; x < out_.w; ++x) {
        const int64_t pixel = static_cast<int64_t>(y) * out_.w + x;
        for (int c = 0; c < out_.c; ++c) {
          const int32_t source = sources_[static_cast<size_t>(c * out_.pixels() + pixel)];
          const auto channel = static_cast<int>(source / in_.pixels());
          set_code(out_, out_.pixel(pixel), c, code_at(in_, in_.pixel(source % in_.pixels()), channel));
        }
      }
    });
  }

 private:
  std::vector<int32_t> sources_;
  View in_, out_;
};

}  // namespace

std::unique_ptr<Op> make_maxpool(const Window& window, View in, View out) {
  return std::make_unique<MaxPoolOp>(window, in, out);
}

std::unique_ptr<Op> make_upsample(int stride, View in, View out) {
  return std::make_unique<UpsampleOp>(stride, in, out);
}

std::unique_ptr<Op> make_permute(std::vector<int32_t> sources, View in, View out) {
  return std::make_unique<PermuteOp>(std::move(sources), in, out);
}

}  // namespace yhw
