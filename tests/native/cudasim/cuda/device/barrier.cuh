// The simulator's twin of csrc/cuda/device/barrier.cuh.
#pragma once

#include <cstdint>

#include "cuda/device/shared.cuh"
#include "cuda/device/thread.cuh"
#include "mbarrier.h"

namespace fusedrnn {

FUSEDRNN_DEV void sync_named(int barrier, int threads) { cudasim::sync_named(barrier, threads); }

class Mbarrier {
 public:
  Mbarrier(const Shared<uint64_t>& words, int64_t i) : address_(words.address(i)) {}

  void init(int arrivals) const { cudasim::mbarrier_init(address_, arrivals); }
  void arrive() const { cudasim::mbarrier_arrive(address_, 0); }
  void arrive_expect_tx(int bytes) const { cudasim::mbarrier_arrive(address_, bytes); }
  void wait(int parity) const { cudasim::mbarrier_wait(address_, parity); }

  int64_t address() const { return address_; }

 private:
  int64_t address_;
};

FUSEDRNN_DEV void fence_mbarrier_init() { cudasim::mbarrier_init_fence(); }

}  // namespace fusedrnn
