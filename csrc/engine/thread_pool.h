// SPDX-License-Identifier: Apache-2.0
#ifndef YHW_ENGINE_THREAD_POOL_H_
#define YHW_ENGINE_THREAD_POOL_H_

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace yhw {

// A fixed set of threads that share loops. Results do not depend on the number of threads: every iteration writes its
// own part of the output.
class ThreadPool {
 public:
  // `threads` counts the calling thread; 0 means one per processor. Throws std::system_error where the system grants no
  // more threads.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(worker, begin, end) with disjoint ranges that cover [0, count); worker is in [0, size()). The first
  // exception thrown by a body is rethrown here.
  void parallel_for(int count, const std::function<void(int, int, int)>& body);

 private:
  void stop();
  void work(int worker);
  void run_share(int worker);

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable start_, done_;
  const std::function<void(int, int, int)>* body_ = nullptr;
  int count_ = 0;
  int pending_ = 0;
  uint64_t round_ = 0;
  bool stop_ = false;
  std::exception_ptr error_;
};

}  // namespace yhw

#endif  // YHW_ENGINE_THREAD_POOL_H_
