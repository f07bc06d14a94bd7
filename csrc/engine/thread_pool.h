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
  // exception thrown by a body is rethrown here, when all threads have stopped.
  template <typename Body>
  void parallel_for(int count, const Body& body) {
    run({count, &body, [](const void* function, int worker, int index) {
           (*static_cast<const Body*>(function))(worker, index);
         }});
  }

 private:
  // A loop and its body without a type; the body outlives the loop.
  struct Loop {
    int count = 0;
    const void* body = nullptr;
    void (*call)(const void* body, int worker, int index) = nullptr;
  };

  void run(const Loop& loop);
  void stop();
  void work(int worker);
  void share(int worker);
  uint64_t wait_for_round(uint64_t seen);

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable start_;
  Loop loop_;
  std::atomic<int> next_{0};
  std::atomic<int> running_{0};
  std::atomic<uint64_t> round_{0};
  std::atomic<bool> stop_{false};
  std::exception_ptr error_;
};

}  // namespace yhw

#endif  // YHW_ENGINE_THREAD_POOL_H_
