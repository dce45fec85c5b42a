// Scratch memory and threads of one call of a layer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cpu/runtime.h"

namespace fusedrnn {

// Hands out pieces of few blocks of the runtime's scratch memory.
class Workspace {
 public:
  explicit Workspace(Runtime& runtime) : runtime_(runtime) {}

  // Uninitialised, aligned to 64 bytes, valid as long as the runtime.
  void* take(int64_t bytes) {
    constexpr int64_t kAlign = 64, kBlockBytes = 32 * 1024;
    bytes = (bytes + kAlign - 1) / kAlign * kAlign;
    if (bytes > left_) {
      left_ = bytes > kBlockBytes ? bytes : kBlockBytes;
      next_ = static_cast<char*>(runtime_.scratch(static_cast<size_t>(left_)));
    }
    void* piece = next_;
    next_ += bytes;
    left_ -= bytes;
    return piece;
  }
  void* take_zeros(int64_t bytes) {
    void* piece = take(bytes);
    std::memset(piece, 0, static_cast<size_t>(bytes));
    return piece;
  }

 private:
  Runtime& runtime_;
  char* next_ = nullptr;
  int64_t left_ = 0;
};

// Calls body(thread_idx, begin, end) on contiguous parts of [0, count), on several threads if
// `count` items of `item_work` elements each are worth it.
template <class Body>
void parallel_for(Runtime& runtime, int max_threads, int64_t count, int64_t item_work,
                  const Body& body) {
  constexpr int64_t kThreadWork = 16 * 1024;  // elements that outweigh a fork and join
  const int64_t work_threads = count * item_work / kThreadWork;
  int64_t threads = max_threads < work_threads ? max_threads : work_threads;
  if (threads > count) threads = count;
  if (threads <= 1) {
    body(0, int64_t{0}, count);
    return;
  }
  auto part = [&](int thread_idx, int num_threads) {
    body(thread_idx, count * thread_idx / num_threads, count * (thread_idx + 1) / num_threads);
  };
  runtime.parallel(static_cast<int>(threads), part);
}

}  // namespace fusedrnn
