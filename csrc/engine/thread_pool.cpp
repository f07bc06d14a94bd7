// SPDX-License-Identifier: Apache-2.0
#include "thread_pool.h"

#include <algorithm>

namespace yhw {
namespace {

// Polls before a waiting thread sleeps or yields: some tens of microseconds.
constexpr int kPolls = 4000;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  const int wanted = threads > 0 ? threads : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  try {
    for (int i = 1; i < wanted; ++i) {
      workers_.emplace_back([this, i] { work(i); });
    }
  } catch (...) {
    stop();  // the destructor does not run, and a thread that is not joined ends the process
    throw;
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    tickets_.fetch_add(uint64_t{1} << 32);
  }
  start_.notify_all();
  for (auto& worker : workers_) {
    worker.join();
  }
}

void ThreadPool::run(int count, const Loop& loop) {
  if (workers_.empty() || count < 2) {
    for (int i = 0; i < count; ++i) {
      loop.call(loop.body, 0, i);
    }
    return;
  }
  const auto round = static_cast<uint32_t>(tickets_.load(std::memory_order_relaxed) >> 32) + 1;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    loop_ = loop;
    error_ = nullptr;
    done_.store(0, std::memory_order_relaxed);
    tickets_.store(uint64_t{round} << 32 | static_cast<uint32_t>(count), std::memory_order_release);
  }
  start_.notify_all();
  share(0, round);
  for (int polls = 0; done_.load(std::memory_order_acquire) != count; ++polls) {
    polls < kPolls ? relax() : std::this_thread::yield();
  }
  if (error_) {
    std::rethrow_exception(error_);
  }
}

uint32_t ThreadPool::wait_for_round(uint32_t seen) const {
  const auto round = [this] { return static_cast<uint32_t>(tickets_.load(std::memory_order_acquire) >> 32); };
  for (int polls = 0; polls < kPolls; ++polls) {
    if (round() != seen) {
      return round();
    }
    relax();
  }
  std::unique_lock<std::mutex> lock(mutex_);
  start_.wait(lock, [&] { return round() != seen; });
  return round();
}

void ThreadPool::work(int worker) {
  uint32_t seen = 0;
  while (true) {
    seen = wait_for_round(seen);
    if (stop_) {
      return;
    }
    share(worker, seen);
  }
}

void ThreadPool::share(int worker, uint32_t round) {
  uint64_t tickets = tickets_.load(std::memory_order_acquire);
  while (tickets >> 32 == round && static_cast<uint32_t>(tickets) != 0) {
    if (!tickets_.compare_exchange_weak(tickets, tickets - 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
      continue;
    }
    try {
      // From the last index to the first.
      loop_.call(loop_.body, worker, static_cast<int>(static_cast<uint32_t>(tickets)) - 1);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) {
        error_ = std::current_exception();
      }
    }
    done_.fetch_add(1, std::memory_order_acq_rel);
    tickets = tickets_.load(std::memory_order_acquire);
  }
}

}  // namespace yhw
