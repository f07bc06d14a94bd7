// SPDX-License-Identifier: Apache-2.0
// Operations whose accumulator is a simple function of one pixel (add, mul) or of a whole map (average).
#include <cstring>
#include <utility>

#include "op.h"

namespace yhw {
namespace {

// Row by row: int64 accumulators of a whole row, then codes.
class RowOp : public Op {
 public:
  RowOp(View out, Requantiser requant) : out_(out), requant_(std::move(requant)) {}

  ScratchNeed scratch() const override { return {static_cast<size_t>(out_.w) * static_cast<size_t>(out_.c), 0}; }

  void run(RunContext& context) const override {
    context.pool.parallel_for(out_.h, [&](int worker, int begin, int end) {
      int64_t* acc = context.worker_scratch[static_cast<size_t>(worker)].data();
      for (int y = begin; y < end; ++y) {
        accumulate(y, acc);
        context.kernels.requant_row(requant_, acc, true, out_.w, out_.c, out_.c, out_.row(y), out_.stride);
      }
    });
  }

 protected:
  virtual void accumulate(int y, int64_t* acc) const = 0;

  const View out_;

 private:
  const Requantiser requant_;
};

class AddOp final : public RowOp {
 public:
  AddOp(std::vector<View> inputs, std::vector<int> left_shifts, View out, Requantiser requant)
      : RowOp(out, std::move(requant)), inputs_(std::move(inputs)), left_shifts_(std::move(left_shifts)) {}

 private:
  void accumulate(int y, int64_t* acc) const override {
    std::memset(acc, 0, sizeof(int64_t) * static_cast<size_t>(out_.w) * static_cast<size_t>(out_.c));
    for (size_t i = 0; i < inputs_.size(); ++i) {
      const View& in = inputs_[i];
      const int left = left_shifts_[i];
      for (int x = 0; x < out_.w; ++x) {
        const Code* from = in.row(y) + static_cast<int64_t>(x) * in.stride;
        int64_t* to = acc + static_cast<int64_t>(x) * out_.c;
        for (int c = 0; c < out_.c; ++c) {
          to[c] += shift_left(static_cast<int64_t>(from[c]), left);
        }
      }
    }
  }

  std::vector<View> inputs_;
  std::vector<int> left_shifts_;
};

class MulOp final : public RowOp {
 public:
  MulOp(View map, View factors, View out, Requantiser requant)
      : RowOp(out, std::move(requant)), map_(map), factors_(factors) {}

 private:
  void accumulate(int y, int64_t* acc) const override {
    const int factor_c = factors_.c == 1 ? 0 : 1, factor_x = factors_.w == 1 ? 0 : factors_.stride;
    const Code* factor_row = factors_.row(factors_.h == 1 ? 0 : y);
    for (int x = 0; x < out_.w; ++x) {
      const Code* from = map_.row(y) + static_cast<int64_t>(x) * map_.stride;
      const Code* factor = factor_row + static_cast<int64_t>(x) * factor_x;
      int64_t* to = acc + static_cast<int64_t>(x) * out_.c;
      for (int c = 0; c < out_.c; ++c) {
        to[c] = static_cast<int64_t>(from[c]) * factor[c * factor_c];
      }
    }
  }

  View map_, factors_;
};

class AvgPoolOp final : public RowOp {
 public:
  AvgPoolOp(View in, View out, Requantiser requant) : RowOp(out, std::move(requant)), in_(in) {}

 private:
  void accumulate(int, int64_t* acc) const override {
    std::memset(acc, 0, sizeof(int64_t) * static_cast<size_t>(in_.c));
    for (int64_t p = 0; p < static_cast<int64_t>(in_.h) * in_.w; ++p) {
      const Code* from = in_.data + p * in_.stride;
      for (int c = 0; c < in_.c; ++c) {
        acc[c] += from[c];
      }
    }
  }

  View in_;
};

}  // namespace

std::unique_ptr<Op> make_add(std::vector<View> inputs, std::vector<int> left_shifts, View out, Requantiser requant) {
  return std::make_unique<AddOp>(std::move(inputs), std::move(left_shifts), out, std::move(requant));
}

std::unique_ptr<Op> make_mul(View map, View factors, View out, Requantiser requant) {
  return std::make_unique<MulOp>(map, factors, out, std::move(requant));
}

std::unique_ptr<Op> make_avgpool(View in, View out, Requantiser requant) {
  return std::make_unique<AvgPoolOp>(in, out, std::move(requant));
}

}  // namespace yhw
