// The threads of a persistent region: who does what, and the barrier between steps.
#pragma once

#include <atomic>
#include <cstdint>

#include "common/macros.h"
#include "cpu/isa/intrinsics.h"
#include "cpu/sweep.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

FUSEDRNN_HD void pause_thread() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
  __asm__ __volatile__("yield");
#endif
}

// Sets subnormal numbers to zero on this thread as long as it lives: each would cost a
// hundred cycles, and recurrent states that fade away are full of them.
class FlushSubnormals {
 public:
#if defined(__x86_64__) || defined(_M_X64)
  FlushSubnormals() : old_(_mm_getcsr()) { _mm_setcsr(old_ | 0x8040); }
  ~FlushSubnormals() { _mm_setcsr(old_); }

 private:
  unsigned old_;
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
  FlushSubnormals() {
    __asm__ __volatile__("mrs %0, fpcr" : "=r"(old_));
    __asm__ __volatile__("msr fpcr, %0" : : "r"(old_ | (uint64_t{1} << 24)));
  }
  ~FlushSubnormals() { __asm__ __volatile__("msr fpcr, %0" : : "r"(old_)); }

 private:
  uint64_t old_;
#endif
};

// The rows of a step that a thread has: `count` of them, from `first` on, of step_count. The order
// of a sum depends on the latter alone, which is the same for any number of threads.
struct OwnRows {
  int64_t first, count, step_count;
};

// One thread's view of its team.
//
// With Split::kRows a thread has rows of its own and does every panel for them; threads never
// wait. With Split::kUnits all threads share the panels of each product: each has a list of
// its own and, when done, helps the others with theirs, because cores are rarely equal. Which
// thread computes a panel changes nothing in its numbers.
class Team {
 public:
  template <class Sweep>
  Team(const Sweep& sweep, int thread_idx, int num_threads)
      : slots_(sweep.team),
        thread_idx_(thread_idx),
        num_threads_(num_threads),
        shares_panels_(sweep.split == Split::kUnits && num_threads > 1) {
    const int64_t part = shares_panels_ ? 0 : thread_idx, parts = shares_panels_ ? 1 : num_threads;
    first_row_ = sweep.steps.first_row_of(part, parts, sweep.begin, sweep.end);
    end_row_ = sweep.steps.first_row_of(part + 1, parts, sweep.begin, sweep.end);
  }

  // This thread's part of the first `count` rows of a step: the same rows in every step of a
  // region.
  FUSEDRNN_HD OwnRows own_rows(int64_t count) const {
    const int64_t end = count < end_row_ ? count : end_row_;
    return {first_row_, end > first_row_ ? end - first_row_ : 0, count};
  }

  // Calls body(panel) for panels [0, count), on one thread each, or all on this one if it owns
  // rows; then waits until every panel is done. Descending order lets a step begin with the
  // weights that the step before it left in the cache.
  template <class Body>
  FUSEDRNN_HD void for_each_panel(int64_t count, bool descending, const Body& body) {
    if (!shares_panels_) {
      for (int64_t i = 0; i < count; ++i) body(descending ? count - 1 - i : i);
      return;
    }
    constexpr int kMaxHelped = 8;  // lists to look at; each look costs a cache miss
    const int lists = num_threads_ < kMaxHelped ? num_threads_ : kMaxHelped;
    const int parity = static_cast<int>(epoch_ & 1);
    for (int i = 0; i < lists; ++i) {
      const int owner = (thread_idx_ + i) % num_threads_;
      const int64_t first = count * owner / num_threads_;
      const int64_t last = count * (owner + 1) / num_threads_;
      std::atomic<int64_t>& taken = slots_[owner].taken[parity];
      while (taken.load(std::memory_order_relaxed) < last - first) {
        const int64_t idx = taken.fetch_add(1, std::memory_order_relaxed);
        if (idx < last - first) body(descending ? last - 1 - idx : first + idx);
      }
    }
    // Nobody looks at the other lists before everybody has passed the barrier.
    slots_[thread_idx_].taken[1 - parity].store(0, std::memory_order_relaxed);
    wait_for_all();
  }

 private:
  // Orders everything written before it on any thread before everything read after it.
  void wait_for_all() {
    constexpr int kSpins = 2000;  // then the core may be needed by the thread that is awaited
    ++epoch_;
    slots_[thread_idx_].arrived.store(epoch_, std::memory_order_release);
    for (int i = 1; i < num_threads_; ++i) {
      const std::atomic<int64_t>& arrived = slots_[(thread_idx_ + i) % num_threads_].arrived;
      for (int spin = 0; arrived.load(std::memory_order_acquire) < epoch_; ++spin) {
        if (spin < kSpins) {
          pause_thread();
        } else {
          rest_thread();
        }
      }
    }
  }

  TeamSlot* slots_;
  int thread_idx_;
  int num_threads_;
  bool shares_panels_;
  int64_t first_row_, end_row_;
  int64_t epoch_ = 0;
};

}  // namespace FUSEDRNN_ISA
}  // namespace fusedrnn
