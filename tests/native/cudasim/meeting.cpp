#include "meeting.h"

#include <cstring>

#include "scheduler.h"

namespace cudasim {

using fusedrnn::kWarpSize;

namespace {

enum class Orders : int8_t { kNothing, kMemory };

void release(Meeting& meeting, Orders orders) {
  something_happened();
  Clocks& clocks = meeting.arrived[0]->block->cluster->clocks;
  if (orders == Orders::kMemory) {
    std::vector<int> indices;
    for (const Thread* thread : meeting.arrived) indices.push_back(thread->clock);
    clocks.meet(indices);
  }
  for (Thread* thread : meeting.arrived) wake(*thread);
  meeting.arrived.clear();
}

// Waits until `expected` threads have come. All must come for the same thing; the last one does
// what they do together.
void meet(Meeting& meeting, const char* what, int parameter, int expected, Orders orders,
          void (*together)(void* const* parts) = nullptr) {
  const bool same = meeting.parameter == parameter &&
                    (meeting.what == what || std::strcmp(meeting.what, what) == 0);
  if (!meeting.arrived.empty() && !same) {
    fail("divergence: in %s(%d), thread %d is in %s(%d)", what, parameter, meeting.arrived[0]->idx,
         meeting.what, meeting.parameter);
  }
  meeting.what = what;
  meeting.parameter = parameter;
  meeting.arrived.push_back(self);
  if (static_cast<int>(meeting.arrived.size()) < expected) return wait(what);
  if (together) together(warp_of(*self).parts);
  release(meeting, orders);
  yield();
}

void meet_warp(Warp& warp, const char* what, int parameter, Orders orders,
               void (*together)(void* const* parts) = nullptr) {
  if (warp.living < kWarpSize) fail("divergence: %s after a thread of the warp ended", what);
  meet(warp.meeting, what, parameter, kWarpSize, orders, together);
}

}  // namespace

void release_if_complete(Meeting& meeting, int living) {
  if (!meeting.arrived.empty() && static_cast<int>(meeting.arrived.size()) == living) {
    release(meeting, Orders::kMemory);
  }
}

void sync_block() {
  Block& block = *self->block;
  meet(block.meeting, "sync_block", 0, block.living, Orders::kMemory);
}

void sync_cluster() {
  Cluster& cluster = *self->block->cluster;
  meet(cluster.meeting, "sync_cluster", 0, cluster.living, Orders::kMemory);
}

void sync_warp() { meet_warp(warp_of(*self), "sync_warp", 0, Orders::kMemory); }

void collective(const char* what, int parameter, void* part, void (*together)(void* const* parts)) {
  Warp& warp = warp_of(*self);
  warp.parts[self->idx % kWarpSize] = part;
  meet_warp(warp, what, parameter, Orders::kNothing, together);
}

uint64_t shuffle(uint64_t value, int source, const char* what, int parameter) {
  if (source < 0 || source >= kWarpSize) fail("%s: there is no lane %d", what, source);
  struct Part {
    uint64_t given, taken;
    int source;
  } part{value, 0, source};
  collective(what, parameter, &part, [](void* const* parts) {
    for (int i = 0; i < kWarpSize; ++i) {
      Part& to = *static_cast<Part*>(parts[i]);
      to.taken = static_cast<const Part*>(parts[to.source])->given;
    }
  });
  return part.taken;
}

void sync_named(int barrier, int threads) {
  if (barrier < 1 || barrier >= kNamedBarriers) fail("there is no named barrier %d", barrier);
  if (threads < fusedrnn::kWarpSize || threads % fusedrnn::kWarpSize != 0 ||
      threads > shape().threads) {
    fail("named barrier %d for %d of %d threads", barrier, threads, shape().threads);
  }
  meet(self->block->named[barrier], "sync_named", threads, threads, Orders::kMemory);
}

}  // namespace cudasim
