// SPDX-License-Identifier: Apache-2.0
#ifndef YHW_SPARSE_ARENA_H_
#define YHW_SPARSE_ARENA_H_

#include <cstdint>
#include <cstdlib>
#include <new>

namespace yhw {
namespace sparse {

constexpr size_t kAlignment = 64;

// Aligned memory that grows and is kept for the next call on this thread: fresh pages cost more than the work on them.
class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() { std::free(memory_); }

  // bytes: a multiple of kAlignment. What an earlier call returned is no longer valid.
  char* reserve(size_t bytes) {
    if (bytes > size_) {
      std::free(memory_);
      size_ = 0;
      memory_ = static_cast<char*>(std::aligned_alloc(kAlignment, bytes));
      if (memory_ == nullptr) {
        throw std::bad_alloc();
      }
      size_ = bytes;
    }
    return memory_;
  }

 private:
  char* memory_ = nullptr;
  size_t size_ = 0;
};

// Takes aligned arrays from a block of memory; from null it only counts.
class Cursor {
 public:
  explicit Cursor(char* memory) : memory_(memory) {}

  template <typename T>
  T* take(int64_t count) {
    char* at = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ += (static_cast<size_t>(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<T*>(at);
  }
  size_t used() const { return used_; }

 private:
  char* memory_;
  size_t used_ = 0;
};

}  // namespace sparse
}  // namespace yhw

#endif  // YHW_SPARSE_ARENA_H_
