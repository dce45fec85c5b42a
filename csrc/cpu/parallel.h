// A loop over a range on several threads.
#pragma once

#include <cstdint>

#include "cpu/cpu_layer_runtime.h"

namespace fusedrnn {

// Calls body(thread_idx, begin, end) on contiguous parts of [0, count), on several threads if
// `count` items of `item_work` elements each are worth it.
template <class Body>
void parallel_for(CpuRuntime& runtime, int max_threads, int64_t count, int64_t item_work,
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
