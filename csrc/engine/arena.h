// SPDX-License-Identifier: Apache-2.0
#ifndef YHW_ENGINE_ARENA_H_
#define YHW_ENGINE_ARENA_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace yhw {

// A cache line: alignment of every buffer.
constexpr size_t kAlignment = 64;

inline size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Zeroed memory at an aligned address.
class AlignedBytes {
 public:
  AlignedBytes() = default;
  explicit AlignedBytes(size_t bytes) : memory_(bytes + kAlignment) {
    void* at = memory_.data();
    size_t space = memory_.size();
    data_ = static_cast<uint8_t*>(std::align(kAlignment, bytes, at, space));
    size_ = bytes;
  }
  AlignedBytes(AlignedBytes&&) = default;
  AlignedBytes& operator=(AlignedBytes&&) = default;

  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  std::vector<uint8_t> memory_;
  uint8_t* data_ = nullptr;
  size_t size_ = 0;
};

// A buffer that is in use from step `first` to step `last`, both included.
struct Lifetime {
  size_t bytes = 0;
  int first = 0;
  int last = 0;
};

// Offsets of buffers such that two that are in use at the same step do not overlap: largest first, each at the lowest
// place that is free for all of its life. `total` is the size of the memory.
std::vector<size_t> place_buffers(const std::vector<Lifetime>& buffers, size_t& total);

}  // namespace yhw

#endif  // YHW_ENGINE_ARENA_H_
