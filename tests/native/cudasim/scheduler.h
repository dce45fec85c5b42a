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
#include <vector>

#include "block.h"
#include "common/status.h"
#include "cuda/device/launch_shape.h"
#include "events.h"
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
  size_t args_bytes;
};
// Runs it to its end; or, where it may begin before the launch before has ended, both until that
// one has.
fusedrnn::Status run(const Launch& launch);
// Runs what is left to its end.
fusedrnn::Status finish();

// A launch that has begun and not ended.
struct RunningLaunch {
  Launch launch;
  std::vector<char> args;
  uint64_t idx;                  // launches are counted
  std::vector<int64_t> waiting;  // clusters that have not begun
  int64_t living;                // blocks that have not ended
  int64_t untriggered;           // blocks that the launch after still waits for
  size_t resident;               // clusters that run at the same time
};
// Whether the launch of that number still runs.
bool is_running(uint64_t idx);
// Whether the running thread, of that launch, would come too early with a store: the launch before
// still runs.
bool early_store_possible(const RunningLaunch& launch);

// The thread that runs.
extern Thread* self;
const fusedrnn::LaunchShape& shape();
Events& events();
// Whether asynchronous stores arrive word by word in this launch.
bool torn_stores();
Kept kept_reader();

// Ends the launch and says what is wrong, in printf's words. The first fault counts.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
// Ends the launch after a report.
[[noreturn]] void stop();
// Reports a fault of `thread` that shows while another one runs.
void report(const Thread& thread, const char* format, ...) __attribute__((format(printf, 2, 3)));

// Lets others run.
void yield();
// Lets others run, before a look at memory that others write. At the second look at one place all
// others come first; when nothing has happened for many looks, nothing will.
void yield_polling(const void* ptr);
// Lets others run until wake(*self).
void wait(const char* what);
void wake(Thread& thread);
// Is called after an access to shared memory: lets others run when the turn has had its number of
// them.
void count_access();
// Another thread may see a difference: looking at memory has a point again.
void something_happened();

// As in device/programmatic.cuh.
void launch_dependents();
void wait_for_launch_before();

// A store of 8 bytes or fewer to global memory that arrives as an event.
void store_late(void* ptr, const void* value, size_t bytes);

}  // namespace cudasim
