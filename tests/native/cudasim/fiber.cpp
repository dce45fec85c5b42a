#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#define FUSEDRNN_SIM_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FUSEDRNN_SIM_ASAN 1
#endif
#endif
#if defined(FUSEDRNN_SIM_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(FUSEDRNN_SIM_SWAPCONTEXT)
// void cudasim_switch(void** from_stack_pointer, void* to_stack_pointer)
asm(R"(
.text
.globl cudasim_switch
.hidden cudasim_switch
.type cudasim_switch, @function
cudasim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cudasim_switch, .-cudasim_switch
)");
extern "C" void cudasim_switch(void** from_stack_pointer, void* to_stack_pointer);
#endif

namespace cudasim {
namespace {

#if defined(FUSEDRNN_SIM_ASAN)
constexpr size_t kStackBytes = 256 * 1024;
#else
constexpr size_t kStackBytes = 64 * 1024;
#endif

// The two ends of the switch under way.
Fiber* leaving = nullptr;
Fiber* arriving = nullptr;

}  // namespace

Fiber::~Fiber() {
  if (mapping_) munmap(mapping_, static_cast<size_t>(sysconf(_SC_PAGESIZE)) + kStackBytes);
}

void Fiber::abandon() {
#if defined(FUSEDRNN_SIM_ASAN)
  // The frames that are left on the stack guard memory that others will get.
  __asan_unpoison_memory_region(stack_bottom_, stack_bytes_);
#endif
}

void Fiber::prepare(void (*entry)()) {
  if (!mapping_) {
    const size_t guard_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void* mapping = mmap(nullptr, guard_bytes + kStackBytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED || mprotect(mapping, guard_bytes, PROT_NONE) != 0) {
      std::perror("cudasim: no memory for a stack");
      std::abort();
    }
    mapping_ = static_cast<char*>(mapping);
    stack_bottom_ = mapping_ + guard_bytes;
    // Tops at one distance from a page would compete for the same lines of the cache.
    static size_t fibers = 0;
    stack_bytes_ = kStackBytes - fibers++ % 64 * 64;
  }
  entry_ = entry;
  fake_stack_ = nullptr;
  char* bottom = static_cast<char*>(const_cast<void*>(stack_bottom_));
#if defined(FUSEDRNN_SIM_SWAPCONTEXT)
  getcontext(&context_);
  context_.uc_stack.ss_sp = bottom;
  context_.uc_stack.ss_size = stack_bytes_;
  context_.uc_link = nullptr;
  makecontext(&context_, &Fiber::enter, 0);
#else
  // What cudasim_switch pops: six registers and the address of enter, at whose start the stack
  // is 8 bytes past a multiple of 16, as after a call.
  void** top = reinterpret_cast<void**>(bottom + stack_bytes_);
  top[-2] = reinterpret_cast<void*>(&Fiber::enter);
  stack_pointer_ = top - 8;
#endif
}

void Fiber::change(Fiber& from, Fiber& to) {
  leaving = &from;
  arriving = &to;
#if defined(FUSEDRNN_SIM_ASAN)
  __sanitizer_start_switch_fiber(&from.fake_stack_, to.stack_bottom_, to.stack_bytes_);
#endif
#if defined(FUSEDRNN_SIM_SWAPCONTEXT)
  swapcontext(&from.context_, &to.context_);
#else
  cudasim_switch(&from.stack_pointer_, to.stack_pointer_);
#endif
#if defined(FUSEDRNN_SIM_ASAN)
  __sanitizer_finish_switch_fiber(arriving->fake_stack_, &leaving->stack_bottom_,
                                  &leaving->stack_bytes_);
#endif
}

void Fiber::enter() {
#if defined(FUSEDRNN_SIM_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, &leaving->stack_bottom_, &leaving->stack_bytes_);
#endif
  arriving->entry_();
  std::abort();
}

}  // namespace cudasim
