// SPDX-License-Identifier: Apache-2.0
#ifndef YHW_ENGINE_THREAD_POOL_H_
#define YHW_ENGINE_THREAD_POOL_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace yhw {

// A fixed set of threads that share loops. Results do not depend on the number of threads: every iteration writes its
// own part of the output.
//
// Between two loops of one run only microseconds pass, so a thread without work polls for a while before it sleeps.
// Nothing is allocated by a loop.
class ThreadPool {
 public:
  // `threads` counts the calling thread; 0 means one per processor. Throws std::system_error where the system grants no
  // more threads.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(worker, index) once for every index in [0, count), in any order; worker is in [0, size()). The first
  // exception thrown by a body is rethrown here, after the loop.
  template <typename Body>
  void parallel_for(int count, const Body& body) {
    run(count, {&body, [](const void* function, int worker, int index) {
                  (*static_cast<const Body*>(function))(worker, index);
                }});
  }

 private:
  // A loop and its body without a type; the body outlives the loop.
  struct Loop {
    const void* body = nullptr;
    void (*call)(const void* body, int worker, int index) = nullptr;
  };

  void run(int count, const Loop& loop);
  void stop();
  void work(int worker);
  void share(int worker, uint32_t round);
  uint32_t wait_for_round(uint32_t seen) const;

  // The number of the current loop in the upper half, the indices nobody has taken yet in the lower half. A thread that
  // wakes late finds another number or none left, so a loop waits for indices, not for threads.
  std::atomic<uint64_t> tickets_{0};
  std::atomic<int> done_{0};
  std::atomic<bool> stop_{false};
  Loop loop_;
  std::exception_ptr error_;
  mutable std::mutex mutex_;
  mutable std::condition_variable start_;
  std::vector<std::thread> workers_;
};

}  // namespace yhw

#endif  // YHW_ENGINE_THREAD_POOL_H_
