// SPDX-License-Identifier: Apache-2.0
// The threads of a block as fibers. Between two barriers every order of the threads is legal, so the order is drawn
// from a seed: a kernel that lacks a barrier gives different results for different seeds. What never ends on a device,
// a barrier that some threads do not reach, is an error here.
#ifndef YHW_CUDA_EMULATION_BLOCK_H_
#define YHW_CUDA_EMULATION_BLOCK_H_

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "fiber.h"

namespace yhw {
namespace emulation {

constexpr unsigned kWarpSize = 32;
constexpr unsigned kMaxThreads = 1024;

// Place in a source file.
struct Site {
  const char* file = "";
  int line = 0;

  bool operator==(const Site& other) const { return line == other.line && std::strcmp(file, other.file) == 0; }
  std::string text() const { return std::string(file) + ":" + std::to_string(line); }
};

// An operation that the lanes of a mask do together. Every lane brings a pointer to its own part, which lies on its
// stack; the last one to arrive evaluates it for all.
struct WarpCall {
  using Evaluate = void (*)(void* const parts[kWarpSize], unsigned mask);

  unsigned mask;
  Site site;
  Evaluate evaluate;
  void* part;
};

// An asynchronous copy, done at once or as late as the kernel's waiting allows: both are legal on a device.
struct AsyncCopy {
  void* to;
  const void* from;
  size_t bytes;  // read from `from`
  size_t size;   // written; zeros after `bytes`
  int group;

  void perform() const {
    std::memcpy(to, from, bytes);
    std::memset(static_cast<char*>(to) + bytes, 0, size - bytes);
  }
};

class Block {
 public:
  // Seed 0 lets all threads advance in step, seed 1 one warp after the other; every other seed draws an order of its
  // own.
  explicit Block(uint64_t seed) : seed_(seed), random_(seed) {}

  // Runs body() for threads 0..count-1; `on_resume(thread)` is called whenever a thread starts or continues.
  // Throws std::runtime_error if threads wait for ever.
  void run(unsigned count, const std::function<void()>& body, const std::function<void(unsigned)>& on_resume) {
    body_ = &body;
    running_block() = this;
    prepare(count);
    while (unfinished_ > 0 && failure_.empty()) {
      if (ready_.empty()) {
        fail(waiting_text());
        break;
      }
      current_ = take_next();
      on_resume(current_);
      caller_.switch_to(threads_[current_]->context);
    }
    running_block() = nullptr;
    if (!failure_.empty()) {
      throw std::runtime_error("CUDA emulation: " + failure_);
    }
  }

  // The rest is called by the threads.

  void wait_for_block(const Site& site) {
    if (at_barrier_ == 0) {
      barrier_site_ = site;
    }
    Thread& thread = *threads_[current_];
    thread.waits = Wait::kBlock;
    thread.site = site;
    if (!(site == barrier_site_)) {
      fail("a divergent barrier: some threads of the block wait at " + barrier_site_.text() + ", thread " +
           std::to_string(current_) + " at " + site.text());
    } else if (++at_barrier_ == count_) {
      at_barrier_ = 0;
      for (unsigned i = 0; i < count_; ++i) {
        release(i);
      }
    }
    pause();
  }

  void call_warp(const WarpCall& call) {
    Thread& thread = *threads_[current_];
    thread.waits = Wait::kWarp;
    thread.site = call.site;
    thread.call = call;
    const unsigned first = current_ / kWarpSize * kWarpSize, lane = current_ % kWarpSize;
    if ((call.mask >> lane & 1) == 0) {
      fail("lane " + std::to_string(lane) + " is not in its own mask at " + call.site.text());
    } else if (warp_complete(first, call)) {
      void* parts[kWarpSize] = {};
      for_lanes(call.mask, [&](unsigned i) { parts[i] = threads_[first + i]->call.part; });
      call.evaluate(parts, call.mask);
      for_lanes(call.mask, [&](unsigned i) { release(first + i); });
    }
    pause();
  }

  void begin_copy(AsyncCopy copy) {
    Thread& thread = *threads_[current_];
    copy.group = thread.copy_group;
    (seed_ == 0 || (seed_ > 1 && random_() % 2 == 0)) ? copy.perform() : thread.copies.push_back(copy);
  }
  void commit_copies() { ++threads_[current_]->copy_group; }
  // Completes all committed groups of this thread but the newest `pending`.
  void wait_for_copies(int pending) {
    Thread& thread = *threads_[current_];
    const int last = thread.copy_group - pending;
    auto& copies = thread.copies;
    const auto end = std::find_if(copies.begin(), copies.end(), [&](const AsyncCopy& c) { return c.group >= last; });
    std::for_each(copies.begin(), end, [](const AsyncCopy& c) { c.perform(); });
    copies.erase(copies.begin(), end);
  }

  [[noreturn]] void trap(const Site& site) {
    fail("trap at " + site.text());
    for (;;) {
      pause();
    }
  }

  // The block whose thread is running.
  static Block*& running_block() {
    static Block* block = nullptr;
    return block;
  }

 private:
  enum class Wait { kNothing, kBlock, kWarp, kFinished };

  struct Thread {
    Stack stack;
    Context context;
    Wait waits = Wait::kNothing;
    Site site;
    WarpCall call{};
    std::vector<AsyncCopy> copies;
    int copy_group = 0;
  };

  void prepare(unsigned count) {
    if (count == 0 || count > kMaxThreads) {
      throw std::runtime_error("CUDA emulation: a block must have 1 to 1024 threads, got " + std::to_string(count));
    }
    while (threads_.size() < count) {
      threads_.push_back(std::make_unique<Thread>());
    }
    count_ = unfinished_ = count;
    at_barrier_ = 0;
    failure_.clear();
    ready_.clear();
    next_ready_ = 0;
    eager_ = random_() % 2 == 0;
    for (unsigned i = 0; i < count; ++i) {
      Thread& thread = *threads_[i];
      release(i);
      thread.copies.clear();
      thread.copy_group = 0;
      thread.context.start_at(thread.stack, &Block::enter);
    }
  }

  static void enter() {
    Block& block = *running_block();
    block.threads_[block.current_]->context.arrived();
    (*block.body_)();
    block.leave();
  }

  void leave() {
    Thread& thread = *threads_[current_];
    thread.waits = Wait::kFinished;
    wait_for_copies(0);  // a thread may end before its copies do
    --unfinished_;
    thread.context.switch_to(caller_, true);
  }

  void pause() { threads_[current_]->context.switch_to(caller_); }

  void release(unsigned i) {
    threads_[i]->waits = Wait::kNothing;
    ready_.push_back(i);
  }

  // The thread that waits longest (seed 0); the last one released (seed 1), so that a warp runs as far ahead of the
  // others as it may; any thread, or any of those released last.
  unsigned take_next() {
    size_t chosen = seed_ == 0 ? next_ready_ : ready_.size() - 1;
    if (seed_ > 1) {
      const size_t count = ready_.size() - next_ready_, among = eager_ ? std::min<size_t>(count, kWarpSize) : count;
      chosen -= random_() % among;
    }
    std::swap(ready_[chosen], ready_[seed_ == 0 ? next_ready_ : ready_.size() - 1]);
    if (seed_ == 0) {
      const unsigned first = ready_[next_ready_++];
      if (next_ready_ == ready_.size()) {
        ready_.clear();
        next_ready_ = 0;
      }
      return first;
    }
    const unsigned last = ready_.back();
    ready_.pop_back();
    return last;
  }

  // Whether all lanes of the call's mask have arrived.
  bool warp_complete(unsigned first, const WarpCall& call) {
    bool complete = true;
    for_lanes(call.mask, [&](unsigned lane) {
      if (first + lane >= count_) {
        fail("the mask at " + call.site.text() + " names lane " + std::to_string(lane) + ", which does not exist");
        complete = false;
      } else {
        const Thread& other = *threads_[first + lane];
        complete = complete && other.waits == Wait::kWarp && other.call.mask == call.mask && other.site == call.site;
      }
    });
    return complete;
  }

  template <typename Body>
  static void for_lanes(unsigned mask, const Body& body) {
    for (unsigned lane = 0; lane < kWarpSize; ++lane) {
      if (mask >> lane & 1) {
        body(lane);
      }
    }
  }

  std::string waiting_text() const {
    unsigned at_block = 0, in_warp = 0, finished = 0;
    std::set<std::string> places;
    for (unsigned i = 0; i < count_; ++i) {
      const Wait waits = threads_[i]->waits;
      at_block += waits == Wait::kBlock;
      in_warp += waits == Wait::kWarp;
      finished += waits == Wait::kFinished;
      if (waits != Wait::kFinished) {
        places.insert(threads_[i]->site.text());
      }
    }
    std::string text = "a divergent barrier: of " + std::to_string(count_) + " threads, " + std::to_string(at_block) +
                       " wait for the block, " + std::to_string(in_warp) + " for their warp and " +
                       std::to_string(finished) + " have returned; they wait at";
    for (const std::string& place : places) {
      text += " " + place;
    }
    return text;
  }

  void fail(const std::string& what) {
    if (failure_.empty()) {
      failure_ = what;
    }
  }

  uint64_t seed_;
  std::mt19937_64 random_;
  const std::function<void()>* body_ = nullptr;
  Context caller_;
  // Kept from launch to launch: mapping the stacks takes longer than most kernels.
  static std::vector<std::unique_ptr<Thread>>& pool() {
    static std::vector<std::unique_ptr<Thread>> threads;
    return threads;
  }

  std::vector<std::unique_ptr<Thread>>& threads_ = pool();
  std::vector<unsigned> ready_;  // from next_ready_ on
  size_t next_ready_ = 0;
  bool eager_ = false;
  unsigned count_ = 0, unfinished_ = 0, current_ = 0, at_barrier_ = 0;
  Site barrier_site_;
  std::string failure_;
};

}  // namespace emulation
}  // namespace yhw

#endif  // YHW_CUDA_EMULATION_BLOCK_H_
