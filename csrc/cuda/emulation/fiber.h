// SPDX-License-Identifier: Apache-2.0
// Stacks to run on: a fiber is a call that can be left in its middle and resumed later, on the same thread.
#ifndef YHW_CUDA_EMULATION_FIBER_H_
#define YHW_CUDA_EMULATION_FIBER_H_

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <new>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace yhw {
namespace emulation {

// A stack with a page below it that may not be touched: running over its end is a fault, not silence.
class Stack {
 public:
  Stack() : page_(static_cast<size_t>(sysconf(_SC_PAGESIZE))) {
    base_ = mmap(nullptr, page_ + kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base_ == MAP_FAILED || mprotect(base_, page_, PROT_NONE) != 0) {
      throw std::bad_alloc();
    }
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  ~Stack() { munmap(base_, page_ + kBytes); }

  char* bottom() const { return static_cast<char*>(base_) + page_; }
  static constexpr size_t kBytes = size_t{256} << 10;  // pages are taken when first touched

 private:
  size_t page_;
  void* base_;
};

#if defined(__x86_64__)
// Saves what a call must preserve and the stack's top in *save, continues where `load` was saved.
__attribute__((naked, noinline)) inline void switch_stack(void** /* save: rdi */, void* /* load: rsi */) {
  asm volatile(
      "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
      "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
      "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret");
}
#endif

// One side of a switch: a suspended fiber, or the caller of the fibers.
class Context {
 public:
  // The side that is running now; `entry` never returns.
  Context() = default;

  void start_at(const Stack& stack, void (*entry)()) {
    stack_bottom_ = stack.bottom();
    stack_bytes_ = Stack::kBytes;
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(stack.bottom(), Stack::kBytes);  // a fiber that never ended may have used it
    fake_stack_ = nullptr;
#endif
#if defined(__x86_64__)
    // As if `entry` had been called: a return address where the ABI wants it, at 8 modulo 16; below it what a switch
    // pops, `entry` and six registers.
    auto* top = reinterpret_cast<uintptr_t*>(stack.bottom() + Stack::kBytes) - 1;
    *top = 0;
    *--top = reinterpret_cast<uintptr_t>(entry);
    for (int i = 0; i < 6; ++i) {
      *--top = 0;
    }
    top_ = top;
#else
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack.bottom();
    context_.uc_stack.ss_size = Stack::kBytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#endif
  }

  // Leaves this side and continues `to`. `last`: this side is never resumed.
  void switch_to(Context& to, bool last = false) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(last ? nullptr : &fake_stack_, to.stack_bottom_, to.stack_bytes_);
#endif
    (void)last;
    to.resumed_by_ = this;
#if defined(__x86_64__)
    switch_stack(&top_, to.top_);
#else
    swapcontext(&context_, &to.context_);
#endif
    arrived();
  }

  // To be called first on a new fiber.
  void arrived() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack_, &resumed_by_->stack_bottom_, &resumed_by_->stack_bytes_);
    fake_stack_ = nullptr;
#endif
  }

 private:
  Context* resumed_by_ = nullptr;
  const void* stack_bottom_ = nullptr;
  size_t stack_bytes_ = 0;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack_ = nullptr;
#endif
#if defined(__x86_64__)
  void* top_ = nullptr;
#else
  ucontext_t context_{};
#endif
};

}  // namespace emulation
}  // namespace yhw

#endif  // YHW_CUDA_EMULATION_FIBER_H_
