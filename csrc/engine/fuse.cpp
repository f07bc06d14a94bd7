// SPDX-License-Identifier: Apache-2.0
// Which nodes of a graph are computed as one operation.
#include <algorithm>

#include "engine.h"

namespace yhw {
namespace {

constexpr int kNoReader = -1;
constexpr int kNotFusable = -2;

bool halves(const Window& w, Shape in, Shape out) {
  return w.size_y == 2 && w.size_x == 2 && w.stride_y == 2 && w.stride_x == 2 && w.pad_y == 0 && w.pad_x == 0 &&
         in.h == 2 * out.h && in.w == 2 * out.w;
}

}  // namespace

// By tensor: the only node that reads it, if nothing else sees it.
std::vector<int> Engine::fusable_readers() const {
  std::vector<int> readers(tensors_.size(), kNoReader);
  const auto see = [&](int tensor, int reader) {
    int& seen = readers[static_cast<size_t>(tensor)];
    seen = seen == kNoReader ? reader : kNotFusable;
  };
  for (size_t i = 0; i < nodes_.size(); ++i) {
    for (int input : nodes_[i].inputs) {
      see(input, static_cast<int>(i));
    }
  }
  for (int tensor = 0; tensor < tensors(); ++tensor) {
    const Tensor& t = at(tensor);
    if (t.parent >= 0) {
      readers[static_cast<size_t>(tensor)] = readers[static_cast<size_t>(t.parent)] = kNotFusable;
    }
    if (t.kept) {
      readers[static_cast<size_t>(tensor)] = kNotFusable;
    }
  }
  return readers;
}

bool Engine::fuse_pool(const Node& conv, const Node& pool) const {
  ConvTail& tail = conv.conv->tail;
  // Pooling comes first in a tail.
  if (tail.pools || tail.residual || !conv.conv->monotone) {
    return false;
  }
  tail.pools = halves(*pool.pool, at(conv.output).shape, at(pool.output).shape);
  return tail.pools;
}

bool Engine::fuse_add(Node& conv, const Node& add) const {
  const AddNode& sum = *add.add;
  if (conv.conv->tail.residual || add.inputs.size() != 2 || add.inputs[0] == add.inputs[1] ||
      sum.requant.acc_bits > 32) {
    return false;
  }
  const size_t mine = add.inputs[0] == conv.output ? 0 : 1, other = 1 - mine;
  conv.inputs.push_back(add.inputs[other]);
  conv.conv->tail.residual = std::make_shared<const Residual>(
      Residual{{}, at(conv.output).storage, sum.left_shifts[mine], sum.left_shifts[other], sum.requant});
  return true;
}

void Engine::fuse() {
  const std::vector<int> readers = fusable_readers();
  for (Node& conv : nodes_) {
    const int reader = readers[static_cast<size_t>(conv.output)];
    if (!conv.conv || reader < 0) {
      continue;
    }
    Node& next = nodes_[static_cast<size_t>(reader)];
    if ((next.pool && fuse_pool(conv, next)) || (next.add && fuse_add(conv, next))) {
      // The convolution moves to where its result was read: all inputs are there by then.
      conv.output = next.output;
      next = std::move(conv);
      conv.make = nullptr;
      conv.conv = nullptr;
    }
  }
  nodes_.erase(std::remove_if(nodes_.begin(), nodes_.end(), [](const Node& node) { return !node.make; }), nodes_.end());
}

}  // namespace yhw
