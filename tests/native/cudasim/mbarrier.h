// mbarriers and the asynchronous stores that count on them.
//
// A barrier is a clock of its own (clocks.h): what asynchronous stores write carries the epoch of
// the phase they count in, so that only who waited for the end of that phase knows of it, and
// not who met the storing thread some other way.
#pragma once

#include <cstdint>
#include <vector>

#include "clocks.h"

namespace cudasim {

struct Thread;

// The most mbarriers of a block; a clock is kept for each.
constexpr int kMaxMbarriers = 16;

struct MbarrierState {
  int64_t offset = 0;    // in the block's shared memory
  int clock = 0;         // in the cluster's clocks
  int arrivals = 0;      // of a phase
  int pending = 0;       // arrivals that this phase still waits for
  int64_t tx_bytes = 0;  // that it still waits for; below 0 when bytes came before their expect
  uint32_t phase = 0;
  bool fenced = false;  // other blocks may use it, once they know of it
  Knowledge arrived;    // of this phase
  Knowledge ended;      // of the phases before
  std::vector<Thread*> waiting;
};

void mbarrier_init(int64_t offset, int arrivals);
void mbarrier_init_fence();
// tx_bytes are expected besides.
void mbarrier_arrive(int64_t offset, int64_t tx_bytes);
void mbarrier_wait(int64_t offset, int parity);
// Stores 16 bytes at `offset` of block `rank`, counted on the barrier at `barrier_offset` there.
void store_async(int64_t offset, const void* bytes, int64_t barrier_offset, int rank);

}  // namespace cudasim
