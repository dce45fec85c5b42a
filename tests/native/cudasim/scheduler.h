// Runs the kernels of a launch on the host: a fiber a thread, one running at a time, in an order
// drawn from a seed.
//
// A thread may lose its turn at every access to shared memory and at every synchronisation. The
// warp with the highest priority runs next, and priorities are redrawn at a rate that is itself
// drawn: a uniform choice keeps threads in step and hides most faults, where one warp or block
// far ahead of the others shows them. Stores that CUDA delivers late (events.h) are delivered at
// a drawn rate too, which may be: not before nothing else can run.
//
// A fault ends the launch with an error that names kernel, block and thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "clocks.h"
#include "common/status.h"
#include "cuda/device/launch_shape.h"
#include "events.h"
#include "fiber.h"
#include "mbarrier.h"
#include "random.h"
#include "shared_memory.h"

namespace cudasim {

// Seeds every decision of the launches that follow.
void set_seed(uint64_t seed);

// A launch of body(args) by every thread.
struct Launch {
  const char* kernel;
  fusedrnn::LaunchShape shape;
  void (*body)(const void* args);
  const void* args;
};
// Runs it to its end.
fusedrnn::Status run(const Launch& launch);

struct Block;
struct Cluster;

struct Thread {
  Block* block = nullptr;
  Fiber* fiber = nullptr;
  int idx = 0;                   // in the block
  int clock = 0;                 // in the cluster's clocks
  const char* waits = nullptr;   // for what; null when it can run
  const void* polled = nullptr;  // where it looked last
  bool done = false;
};

enum class Orders : int8_t { kNothing, kMemory };

// Where threads wait for one another.
struct Meeting {
  const char* what = nullptr;
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
  // The lanes' values in this shuffle and in the last one, which some lanes may still read.
  uint64_t exchanged[2][fusedrnn::kWarpSize] = {};
  int exchange = 0;
};

struct Block {
  Cluster* cluster = nullptr;
  int rank = 0;  // in the cluster
  int64_t x = 0, y = 0, z = 0;
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
  explicit Cluster(const Launch& launch, int64_t idx);

  Clocks clocks;
  std::vector<Block> blocks;
  int living = 0;
  Meeting meeting;
};

// The thread that runs.
extern Thread* self;
const fusedrnn::LaunchShape& shape();
Random& random();
Events& events();
// Asynchronous stores arrive word by word in this launch.
bool torn_stores();

// Ends the launch: what is wrong, in printf's words. The first fault counts.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
// The same for a fault of `thread` that shows while another one runs.
void report(const Thread& thread, const char* format, ...) __attribute__((format(printf, 2, 3)));

// Lets others run.
void yield();
// Lets others run, before a look at memory that others write. At the second look at one place all
// others come first; when nothing has happened for many looks, nothing will.
void yield_polling(const void* ptr);
// Lets others run until wake(*self).
void wait(const char* what);
void wake(Thread& thread);
// Waits until `expected` threads have come. All must come for the same thing.
void meet(Meeting& meeting, const char* what, int parameter, int expected, Orders orders);

// The address of [offset, offset + bytes) in the block's shared memory, for a checked access.
uint8_t* access_shared(Access access, int64_t offset, int64_t bytes);
// Checks an access to any block's; a fault is `by`'s. The rest as in SharedMemory::check.
bool check_shared(const Thread& by, Block& block, Access access, int64_t offset, int64_t bytes,
                  Epoch now, int own, const std::vector<uint32_t>& known);

// A store of 8 bytes or fewer to global memory that arrives as an event.
void store_late(void* ptr, const void* value, size_t bytes);

void sync_block();
void sync_warp();
void sync_cluster();
// Gives `value` to the warp and takes that of lane `source`. `what` and `parameter` must be the
// same in all lanes.
uint64_t shuffle(uint64_t value, int source, const char* what, int parameter);

}  // namespace cudasim
