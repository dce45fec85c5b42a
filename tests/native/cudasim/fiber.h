// Fibers: what a CUDA thread is in the simulator. A fiber has a stack of its own and runs until
// it switches to another. On x86-64 a switch saves the six registers that a call keeps;
// elsewhere it is swapcontext, which makes a system call.
#pragma once

#include <cstddef>

#if !defined(__x86_64__) || defined(FUSEDRNN_SIM_UCONTEXT)
#define FUSEDRNN_SIM_SWAPCONTEXT 1
#include <ucontext.h>
#endif

namespace cudasim {

class Fiber {
 public:
  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber();

  // The next switch to this fiber calls entry, which must never return. A fiber that was in the
  // middle of something must have been abandoned.
  void prepare(void (*entry)());
  // Forgets what runs on the stack; nothing on it is destroyed.
  void abandon();

  // Leaves `from`, which must be running, and continues `to`. A fiber that has no stack, that
  // was never prepared, stands for the caller of the first switch.
  static void change(Fiber& from, Fiber& to);

 private:
  static void enter();

  void (*entry_)() = nullptr;
  char* mapping_ = nullptr;             // guard page, then the stack
  const void* stack_bottom_ = nullptr;  // of the stack, for the address sanitizer
  size_t stack_bytes_ = 0;
  void* fake_stack_ = nullptr;
#if defined(FUSEDRNN_SIM_SWAPCONTEXT)
  ucontext_t context_;
#else
  void* stack_pointer_ = nullptr;
#endif
};

}  // namespace cudasim
