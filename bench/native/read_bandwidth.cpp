// The rate at which threads read buffers of their own again and again: the roof of a layer whose
// weights are read at every step.
//
// A buffer larger than a cache is read forward and backward in turn, the order in which most of
// it is found there. Every thread starts together and counts its bytes until the time is over.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "together.h"

namespace {

constexpr size_t kBlockBytes = 4096;  // read forward, whichever way the blocks are
constexpr size_t kLineBytes = 64;
constexpr size_t kBlockWords = kBlockBytes / sizeof(int32_t);
constexpr int kSums = 128;               // independent additions, as many as fill the registers
constexpr size_t kClockBytes = 1 << 18;  // read between looks at the clock

void add_block(const int32_t* __restrict block, int32_t* __restrict sums) {
  for (size_t i = 0; i < kBlockWords; i += kSums) {
    for (int j = 0; j < kSums; ++j) sums[j] += block[i + j];
  }
}

// Reads all blocks once; returns what keeps the compiler from leaving it out.
int32_t pass(const int32_t* data, size_t blocks, bool backward) {
  int32_t sums[kSums] = {};
  for (size_t i = 0; i < blocks; ++i) {
    add_block(data + (backward ? blocks - 1 - i : i) * kBlockWords, sums);
  }
  int32_t total = 0;
  for (int32_t sum : sums) total += sum;
  return total;
}

double run_thread(size_t bytes, double seconds, Start& start) {
  const size_t blocks = (bytes + kBlockBytes - 1) / kBlockBytes;
  std::vector<int32_t> memory(blocks * kBlockWords + kLineBytes / sizeof(int32_t), 1);
  const auto address = reinterpret_cast<uintptr_t>(memory.data());
  const int32_t* data = memory.data() + (kLineBytes - address % kLineBytes) / sizeof(int32_t);
  const size_t passes = (kClockBytes + blocks * kBlockBytes - 1) / (blocks * kBlockBytes);
  int32_t total = pass(data, blocks, false);
  bool backward = true;
  start.wait();
  const double rate = calls_per_second(seconds, [&] {
    for (size_t i = 0; i < passes; ++i) {
      total += pass(data, blocks, backward);
      backward = !backward;
    }
  });
  volatile int32_t sink = total;
  (void)sink;
  return rate * static_cast<double>(passes * blocks * kBlockBytes) * 1e-9;
}

}  // namespace

// GB/s of all threads together.
extern "C" double read_gbps(int threads, size_t bytes, double seconds) {
  return sum_of_rates(threads, [=](Start& start) { return run_thread(bytes, seconds, start); });
}
