// SPDX-License-Identifier: Apache-2.0
// Convolution: weights packed once; then, row by row, accumulators and codes.
#include <utility>

#include "op.h"
#include "padded_input.h"

namespace yhw {
namespace {

// The row loop that dense, grouped and depthwise convolutions share.
class ConvOp : public Op {
 public:
  ConvOp(const Window& window, bool wide, int acc_stride, View in, View out)
      : wide_(wide), acc_stride_(acc_stride), out_(out), stride_y_(window.stride_y), padded_(window, in, out) {}

  ScratchNeed scratch() const override {
    return {static_cast<size_t>(out_.w) * static_cast<size_t>(acc_stride_), padded_.codes()};
  }

  void run(RunContext& context) const override {
    const View source = padded_.prepare(context.shared_scratch, context.pool);
    const int64_t src_row = static_cast<int64_t>(source.w) * source.stride;
    context.pool.parallel_for(out_.h, [&](int worker, int begin, int end) {
      auto* acc = reinterpret_cast<char*>(context.worker_scratch[static_cast<size_t>(worker)].data());
      for (int y = begin; y < end; ++y) {
        View row = source;
        row.data = source.row(y * stride_y_);
        accumulate(context.kernels, row, src_row, acc);
        store(context.kernels, acc, y);
      }
    });
  }

 protected:
  virtual void accumulate(const Kernels& kernels, const View& row, int64_t src_row, char* acc) const = 0;
  virtual void store(const Kernels& kernels, const char* acc, int y) const = 0;

  const bool wide_;
  const int acc_stride_;
  const View out_;

 private:
  const int stride_y_;
  const PaddedInput padded_;
};

class DepthwiseOp final : public ConvOp {
 public:
  DepthwiseOp(const ConvSpec& spec, View in, View out, Requantiser requant)
      : ConvOp(spec.window, spec.acc_bits > 32, in.c, in, out),
        bias_(spec.bias, spec.bias + in.c),
        requant_(std::move(requant)) {
    const int taps = spec.window.taps();
    weights_.resize(static_cast<size_t>(taps) * static_cast<size_t>(in.c));
    for (int c = 0; c < in.c; ++c) {
      for (int t = 0; t < taps; ++t) {
        weights_[static_cast<size_t>(t * in.c + c)] = static_cast<Code>(spec.weight[c * taps + t]);
      }
    }
    packed_ = {spec.window, wide_, weights_.data(), bias_.data()};
  }

 private:
  void accumulate(const Kernels& kernels, const View& row, int64_t src_row, char* acc) const override {
    kernels.depthwise_row(packed_, row, src_row, out_.w, acc_stride_, acc);
  }
  void store(const Kernels& kernels, const char* acc, int y) const override {
    kernels.requant_row(requant_, acc, wide_, out_.w, acc_stride_, out_.c, out_.row(y), out_.stride);
  }

  std::vector<Code> weights_;
  std::vector<int32_t> bias_;
  Requantiser requant_;
  PackedDepthwise packed_;
};

// Dense is the case of one group. A group's accumulators start at a multiple of kLanes, so codes are written group by
// group and the lanes behind a group's last channel are dropped.
class GroupedOp final : public ConvOp {
 public:
  GroupedOp(const PackedConv& packed, const ConvSpec& spec, View in, View out, const Requantiser& requant)
      : ConvOp(spec.window, packed.wide, packed.groups * packed.blocks() * kLanes, in, out), packed_(packed) {
    pack_weights(spec.weight);
    const int padded_group = packed.blocks() * kLanes;
    bias_.assign(static_cast<size_t>(packed.groups) * static_cast<size_t>(padded_group), 0);
    for (int g = 0; g < packed.groups; ++g) {
      const int first = g * packed.out_per_group;
      for (int k = 0; k < packed.out_per_group; ++k) {
        bias_[static_cast<size_t>(g * padded_group + k)] = spec.bias[first + k];
      }
      Requantiser part = requant;
      part.shift.assign(requant.shift.begin() + first, requant.shift.begin() + first + packed.out_per_group);
      requant_.push_back(std::move(part));
    }
    packed_.weights = weights_.data();
    packed_.bias = bias_.data();
  }

 private:
  void accumulate(const Kernels& kernels, const View& row, int64_t src_row, char* acc) const override {
    kernels.conv_row(packed_, row, src_row, out_.w, acc_stride_, acc);
  }

  void store(const Kernels& kernels, const char* acc, int y) const override {
    const size_t group_bytes =
        static_cast<size_t>(packed_.blocks()) * kLanes * (wide_ ? sizeof(int64_t) : sizeof(int32_t));
    for (int g = 0; g < packed_.groups; ++g) {
      kernels.requant_row(requant_[static_cast<size_t>(g)], acc + g * group_bytes, wide_, out_.w, acc_stride_,
                          packed_.out_per_group, out_.row(y) + g * packed_.out_per_group, out_.stride);
    }
  }

  void pack_weights(const int32_t* weight) {
    const int taps = packed_.window.taps();
    weights_.assign(static_cast<size_t>(packed_.groups * packed_.blocks() * packed_.block_size()), 0);
    for (int g = 0; g < packed_.groups; ++g) {
      for (int k = 0; k < packed_.out_per_group; ++k) {
        const int64_t channel = static_cast<int64_t>(g) * packed_.out_per_group + k;
        const int32_t* row = weight + channel * packed_.in_per_group * taps;
        Code* block =
            weights_.data() + (static_cast<int64_t>(g) * packed_.blocks() + k / kLanes) * packed_.block_size();
        for (int t = 0; t < taps; ++t) {
          for (int c = 0; c < packed_.in_per_group; ++c) {
            const int64_t pair = (static_cast<int64_t>(t) * packed_.pairs() + c / 2) * kLanes;
            block[(pair + k % kLanes) * 2 + c % 2] = static_cast<Code>(row[c * taps + t]);
          }
        }
      }
    }
  }

  std::vector<Code> weights_;
  std::vector<int32_t> bias_;
  std::vector<Requantiser> requant_;
  PackedConv packed_;
};

}  // namespace

std::unique_ptr<Op> make_conv(const ConvSpec& spec, View in, View out, Requantiser requant) {
  if (spec.groups == in.c && in.c == out.c) {
    return std::make_unique<DepthwiseOp>(spec, in, out, std::move(requant));
  }
  const PackedConv packed{spec.window, spec.groups, in.c / spec.groups, out.c / spec.groups, spec.acc_bits > 32,
                          nullptr,     nullptr};
  return std::make_unique<GroupedOp>(packed, spec, in, out, requant);
}

}  // namespace yhw
