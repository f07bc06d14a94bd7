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

  void run(RunContext& context) const override {
    context.pool.parallel_for(out_.h, [&](int, int begin, int end) {
      for (int y = begin; y < end; ++y) {
        context.kernels.maxpool_row(window_, in_, y, out_);
      }
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

  void run(RunContext& context) const override {
    context.pool.parallel_for(out_.h, [&](int, int begin, int end) {
      for (int y = begin; y < end; ++y) {
        for (int x = 0; x < out_.w; ++x) {
          const Code* from = in_.row(y / stride_) + static_cast<int64_t>(x / stride_) * in_.stride;
          std::memcpy(out_.row(y) + static_cast<int64_t>(x) * out_.stride, from,
                      sizeof(Code) * static_cast<size_t>(in_.c));
        }
      }
    });
  }

 private:
  int stride_;
  View in_, out_;
};

class PermuteOp final : public Op {
 public:
  PermuteOp(std::vector<int32_t> sources, View in, View out) : sources_(std::move(sources)), in_(in), out_(out) {}

  void run(RunContext& context) const override {
    const int out_size = out_.h * out_.w, in_size = in_.h * in_.w;
    context.pool.parallel_for(out_size, [&](int, int begin, int end) {
      for (int p = begin; p < end; ++p) {
        for (int c = 0; c < out_.c; ++c) {
          const int32_t source =
              sources_[static_cast<size_t>(c) * static_cast<size_t>(out_size) + static_cast<size_t>(p)];
          const int64_t pixel = source % in_size;
          out_.data[static_cast<int64_t>(p) * out_.stride + c] = in_.data[pixel * in_.stride + source / in_size];
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
