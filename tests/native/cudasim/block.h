// What a launch consists of: clusters of blocks of warps of threads, and where they are.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "clocks.h"
#include "cuda/device/launch_shape.h"
#include "fiber.h"
#include "mbarrier.h"
#include "shared_memory.h"

namespace cudasim {

constexpr int kNamedBarriers = 16;

struct Block;
struct Cluster;
struct RunningLaunch;

struct Thread {
  Block* block = nullptr;
  Fiber* fiber = nullptr;
  int idx = 0;                   // in the block
  int clock = 0;                 // in the cluster's clocks
  const char* waits = nullptr;   // for what; null when it can run
  const void* polled = nullptr;  // where it looked last
  bool done = false;
  bool has_waited = false;  // for the launch before
};

// Where threads wait for one another.
struct Meeting {
  const char* what = "";
  int parameter = 0;  // of `what`
  std::vector<Thread*> arrived;
};

struct Warp {
  Block* block = nullptr;
  std::vector<Thread> threads;
  uint32_t ready = 0;  // lanes that can run
  int living = 0;      // lanes that have not ended
  uint64_t priority = 0;
  int first_lane = 0;  // has its turn before the others
  Meeting meeting;
  void* parts[fusedrnn::kWarpSize] = {};  // of the lanes in a collective
};

struct Block {
  Cluster* cluster = nullptr;
  int rank = 0;  // in the cluster
  int64_t x = 0, y = 0, z = 0;
  int64_t idx = 0;         // in the grid
  bool triggered = false;  // the launch after may begin, as far as it is concerned
  std::vector<Warp> warps;
  int living = 0;
  Meeting meeting;
  Meeting named[kNamedBarriers];
  std::vector<MbarrierState> mbarriers;
  int64_t incoming = 0;  // asynchronous stores under way to this block
  std::unique_ptr<SharedMemory> smem;
};

// The blocks that can reach one another's shared memory; without clusters, one block.
struct Cluster {
  Cluster(RunningLaunch* of_launch, const fusedrnn::LaunchShape& shape, int64_t idx);

  RunningLaunch* launch;
  Clocks clocks;
  std::vector<Block> blocks;
  int living = 0;
  Meeting meeting;
};

inline Warp& warp_of(const Thread& thread) {
  return thread.block->warps[thread.idx / fusedrnn::kWarpSize];
}
inline uint32_t lane_bit(const Thread& thread) { return 1u << (thread.idx % fusedrnn::kWarpSize); }

}  // namespace cudasim
