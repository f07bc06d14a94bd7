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
    round_.fetch_add(1, std::memory_order_release);
  }
  start_.notify_all();
  for (auto& worker : workers_) {
    worker.join();
  }
}

void ThreadPool::run(const Loop& loop) {
  if (workers_.empty() || loop.count < 2) {
    for (int i = 0; i < loop.count; ++i) {
      loop.call(loop.body, 0, i);
    }
    return;
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    loop_ = loop;
    error_ = nullptr;
    next_.store(0, std::memory_order_relaxed);
    running_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    round_.fetch_add(1, std::memory_order_release);
  }
  start_.notify_all();
  share(0);
  for (int polls = 0; running_.load(std::memory_order_acquire) != 0; ++polls) {
    polls < kPolls ? relax() : std::this_thread::yield();
  }
  if (error_) {
    std::rethrow_exception(error_);
  }
}

uint64_t ThreadPool::wait_for_round(uint64_t seen) {
  for (int polls = 0; polls < kPolls; ++polls) {
    const uint64_t round = round_.load(std::memory_order_acquire);
    if (round != seen) {
      return round;
    }
    relax();
  }
  std::unique_lock<std::mutex> lock(mutex_);
  start_.wait(lock, [&] { return round_.load(std::memory_order_acquire) != seen; });
  return round_.load(std::memory_order_acquire);
}

void ThreadPool::work(int worker) {
  uint64_t seen = 0;
  while (true) {
    seen = wait_for_round(seen);
    if (stop_) {
      return;
    }
    share(worker);
    running_.fetch_sub(1, std::memory_order_release);
  }
}

void ThreadPool::share(int worker) {
  try {
    for (int i = next_.fetch_add(1); i < loop_.count; i = next_.fetch_add(1)) {
      loop_.call(loop_.body, worker, i);
    }
  } catch (...) {
    next_.store(loop_.count);  // the other threads end early
    std::lock_guard<std::mutex> lock(mutex_);
    if (!error_) {
      error_ = std::current_exception();
    }
  }
}

}  // namespace yhw
