// SPDX-License-Identifier: Apache-2.0
#ifndef YHW_ENGINE_CONV_WEIGHTS_H_
#define YHW_ENGINE_CONV_WEIGHTS_H_

#include <numeric>

#include "op.h"
#include "weight_step.h"
#include "window_walk.h"

namespace yhw {

// The bias for codes that are stored as code + zero: `weights` are all of an output channel. Sum holds their sum.
template <typename Sum, typename Weight>
int32_t stored_bias(const Weight* weights, int64_t count, int64_t bias, int zero) {
  return static_cast<int32_t>(bias - int64_t{zero} * std::accumulate(weights, weights + count, Sum{0}));
}

// Cuts output channels into chunks of at most `max_blocks` blocks and calls body(first channel, blocks). Chunks are
// nearly equal: 5 blocks are 3 and 2, not 4 and 1.
template <typename Body>
void for_each_chunk(int channels, int max_blocks, const Body& body) {
  int left = (channels + kLanes - 1) / kLanes;
  for (int done = 0; left > 0;) {
    const int chunks = (left + max_blocks - 1) / max_blocks, blocks = (left + chunks - 1) / chunks;
    body(done, blocks);
    done += blocks * kLanes;
    left -= blocks;
  }
}

// Packs the weights of a chunk of output channels in the order a kernel takes them.
class WeightPacker {
 public:
  WeightPacker(const ConvParams& conv, const WindowRuns& runs, const View& group_in, const Kernels& kernels)
      : conv_(conv), runs_(runs), in_(group_in), step_(kernels.layout, group_in.storage.bytes) {}

  size_t chunk_bytes(int blocks) const {
    return static_cast<size_t>(runs_.rows * runs_.columns * runs_.steps) * static_cast<size_t>(blocks * step_.bytes());
  }

  // Output channels [first, first + blocks * kLanes) below `end`; the others get zeros.
  void pack(int first, int end, int blocks, uint8_t* to) const {
    for (int row = 0; row < runs_.rows; ++row) {
      for (int column = 0; column < runs_.columns; ++column) {
        for (int step = 0; step < runs_.steps; ++step) {
          for (int block = 0; block < blocks; ++block) {
            pack_step(first + block * kLanes, end, row, column, step, to);
            to += step_.bytes();
          }
        }
      }
    }
  }

 private:
  void pack_step(int first, int end, int row, int column, int step, uint8_t* to) const {
    for (int lane = 0; lane < kLanes; ++lane) {
      for (int i = 0; i < step_.codes(); ++i) {
        const bool exists = first + lane < end;
        step_.set(to, lane, i, exists ? weight(first + lane, row, column, step * step_.codes() + i) : int16_t{0});
      }
    }
  }

  // The weight of code `code` of a run, 0 between the channels of two taps and behind the last.
  int16_t weight(int k, int row, int column, int code) const {
    const int tap = runs_.merged ? code / in_.stride : column;
    const int channel = runs_.merged ? code % in_.stride : code;
    if (channel >= in_.c || tap >= conv_.window.size_x) {
      return 0;
    }
    const int64_t index = (static_cast<int64_t>(k) * in_.c + channel) * conv_.window.taps();
    return conv_.weight[static_cast<size_t>(index + row * conv_.window.size_x + tap)];
  }

  const ConvParams& conv_;
  const WindowRuns& runs_;
  const View& in_;
  WeightStep step_;
};

}  // namespace yhw

#endif  // YHW_ENGINE_CONV_WEIGHTS_H_
