// SPDX-License-Identifier: Apache-2.0
// From the description of a graph to memory and operations, and running them.
#include <algorithm>
#include <chrono>
#include <limits>
#include <stdexcept>

#include "engine.h"

namespace yhw {
namespace {

constexpr int kUnused = std::numeric_limits<int>::max();

}  // namespace

int Engine::root_of(int tensor) const {
  while (at(tensor).parent >= 0) {
    tensor = at(tensor).parent;
  }
  return tensor;
}

View Engine::view_of(int tensor) const {
  int channel = 0, root = tensor;
  for (; at(root).parent >= 0; root = at(root).parent) {
    channel += at(root).channel;
  }
  const Tensor &whole = at(root), &part = at(tensor);
  uint8_t* data = arena_.data() + whole.offset + static_cast<int64_t>(channel) * whole.storage.bytes;
  return {data, part.shape.c, part.shape.h, part.shape.w, whole.stride(), whole.storage};
}

void Engine::build(const std::vector<int>& kept) {
  check_open();
  for (int tensor : kept) {
    at(tensor);
    tensors_[static_cast<size_t>(tensor)].kept = true;
  }
  built_ = true;
  fuse();
  place_tensors();
  make_ops();
}

void Engine::place_tensors() {
  // A tensor lives from the node that writes the first of its parts to the last that reads one; the input from the
  // start, a kept one to the end.
  const auto end = static_cast<int>(nodes_.size());
  std::vector<Lifetime> lives(tensors_.size(), {0, kUnused, -1});
  const auto use = [&](int tensor, int step) {
    Lifetime& life = lives[static_cast<size_t>(root_of(tensor))];
    life.first = std::min(life.first, step);
    life.last = std::max(life.last, step);
  };
  use(0, -1);
  for (int step = 0; step < end; ++step) {
    const Node& node = nodes_[static_cast<size_t>(step)];
    use(node.output, step);
    for (int input : node.inputs) {
      use(input, step);
    }
  }
  std::vector<int> roots;
  std::vector<Lifetime> buffers;
  for (int tensor = 0; tensor < tensors(); ++tensor) {
    if (at(tensor).kept) {
      use(tensor, end);
    }
  }
  for (int tensor = 0; tensor < tensors(); ++tensor) {
    const Tensor& t = at(tensor);
    Lifetime life = lives[static_cast<size_t>(tensor)];
    if (t.parent < 0 && life.first != kUnused) {
      life.bytes = static_cast<size_t>(t.stride()) * static_cast<size_t>(t.storage.bytes) *
                   static_cast<size_t>(t.shape.h) * static_cast<size_t>(t.shape.w);
      roots.push_back(tensor);
      buffers.push_back(life);
    }
  }
  size_t total = 0;
  const auto offsets = place_buffers(buffers, total);
  for (size_t i = 0; i < roots.size(); ++i) {
    tensors_[static_cast<size_t>(roots[i])].offset = static_cast<int64_t>(offsets[i]);
  }
  arena_ = AlignedBytes(total + kSlackBytes);
}

void Engine::make_ops() {
  size_t shared = 0;
  for (Node& node : nodes_) {
    std::vector<View> inputs;
    for (int input : node.inputs) {
      inputs.push_back(view_of(input));
    }
    ops_.push_back(node.make(inputs, view_of(node.output)));
    node.make = nullptr;  // and with it the weights as they were given
    const ScratchNeed need = ops_.back()->scratch();
    worker_bytes_ = std::max(worker_bytes_, aligned(need.worker + kSlackBytes));
    shared = std::max(shared, need.shared);
  }
  seconds_.resize(ops_.size());
  worker_scratch_ = AlignedBytes(worker_bytes_ * static_cast<size_t>(pool_.size()));
  shared_scratch_ = AlignedBytes(shared + kSlackBytes);
}

MemoryUse Engine::memory() const {
  MemoryUse use{0, arena_.size(), worker_scratch_.size() + shared_scratch_.size()};
  for (const auto& op : ops_) {
    use.weights += op->weight_bytes();
  }
  return use;
}

void Engine::load(const Code* image, bool channels_last) { kernels_->load_words(image, channels_last, view_of(0)); }
void Engine::load(const uint8_t* image, bool channels_last) { kernels_->load_bytes(image, channels_last, view_of(0)); }
void Engine::load(const int8_t* image, bool channels_last) {
  kernels_->load_signed_bytes(image, channels_last, view_of(0));
}

void Engine::run_ops() {
  const RunContext context{*kernels_, pool_, worker_scratch_.data(), worker_bytes_, shared_scratch_.data()};
  using Clock = std::chrono::steady_clock;
  for (size_t i = 0; i < ops_.size(); ++i) {
    const auto start = Clock::now();
    ops_[i]->run(context);
    seconds_[i] = std::chrono::duration<double>(Clock::now() - start).count();
  }
}

std::vector<double> Engine::seconds() const {
  std::vector<double> result(tensors_.size());
  for (size_t i = 0; i < ops_.size(); ++i) {
    result[static_cast<size_t>(nodes_[i].output)] += seconds_[i];
  }
  return result;
}

void Engine::read(int tensor, Code* out) const {
  if (!built_ || !at(tensor).kept) {
    throw std::invalid_argument("engine: tensor " + std::to_string(tensor) + " was not kept by build");
  }
  kernels_->read_map(view_of(tensor), out);
}

}  // namespace yhw
