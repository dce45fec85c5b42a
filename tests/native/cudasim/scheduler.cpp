#include "scheduler.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <utility>

namespace cudasim {

using fusedrnn::kWarpSize;
using fusedrnn::Status;

Thread* self = nullptr;

namespace {

// How a launch is scheduled.
struct Policy {
  double redraw;    // chance of a new priority for some warp, each turn
  bool by_block;    // priorities order blocks before warps
  uint32_t turn;    // accesses to shared memory in a turn, on average; 0: no limit
  double delivery;  // chance of an event, each turn
  bool torn;        // asynchronous stores arrive word by word
  size_t resident;  // clusters that run at the same time, where the launch leaves it open
};

struct Session {
  const Launch* launch = nullptr;
  Status status;
  Random random;
  Policy policy{};
  Events events;
  uint32_t accesses_left = 0;
  int64_t idle_polls = 0;         // since something happened
  uint64_t polling_priority = 0;  // of the last to poll
  Fiber host;
  std::vector<std::unique_ptr<Cluster>> clusters;  // those that run
  std::vector<Warp*> warps;                        // of `clusters`
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Fiber*> free_fibers;
};

Session session;

constexpr uint32_t kNoLimit = 0xFFFFFFFFu;
// Priorities of warps that poll are below this, all others above.
constexpr uint64_t kPolling = uint64_t{1} << 32;
// Looks a living thread takes at memory that stays as it is before the launch counts as stuck.
constexpr int64_t kIdlePolls = 64;

uint32_t draw_turn() {
  return session.policy.turn == 0 ? kNoLimit : session.random.below(2 * session.policy.turn);
}

void draw_policy() {
  constexpr double kRedraws[] = {1, 0.2, 0.02, 0.002};
  constexpr uint32_t kTurns[] = {0, 1000, 60, 6};
  constexpr double kDeliveries[] = {0, 0.01, 0.2, 0.9};
  Random& random = session.random;
  session.policy.redraw = kRedraws[random.below(4)];
  session.policy.by_block = random.below(2) == 0;
  session.policy.turn = kTurns[random.below(4)];
  session.policy.delivery = kDeliveries[random.below(4)];
  session.policy.torn = random.below(2) == 0;
  session.policy.resident = 1 + random.below(4);
  session.accesses_left = draw_turn();
}

uint64_t draw_priority() { return session.random.next() | kPolling; }

void redraw(Warp& warp) {
  warp.first_lane = static_cast<int>(session.random.below(kWarpSize));
  warp.priority = draw_priority();
  if (!session.policy.by_block) return;
  for (Warp& other : warp.block->warps) {
    other.priority = (warp.priority & ~(kPolling - 1)) | (other.priority & (kPolling - 1));
  }
}

void something_happened() { session.idle_polls = 0; }

bool deliver_event() {
  something_happened();
  return session.events.deliver_one(session.random);
}

int64_t living_threads() {
  int64_t living = 0;
  for (const auto& cluster : session.clusters) living += cluster->living;
  return living;
}

void report_message(const Thread& thread, const char* message) {
  if (!session.status.ok) return;
  const Block& block = *thread.block;
  session.status =
      Status::error("%s: block (%lld, %lld, %lld), thread %d: %s", session.launch->kernel,
                    static_cast<long long>(block.x), static_cast<long long>(block.y),
                    static_cast<long long>(block.z), thread.idx, message);
}

// No thread can run and no event is left: says who waits for what in the first block that is
// stuck. Where some came to a meeting and others did not, threads went different ways.
void report_deadlock() {
  for (const auto& cluster : session.clusters) {
    for (const Block& block : cluster->blocks) {
      bool divergence = !block.meeting.arrived.empty();
      std::vector<std::pair<const char*, int>> waits;
      const Thread* first = nullptr;
      for (const Warp& warp : block.warps) {
        divergence = divergence || !warp.meeting.arrived.empty();
        for (const Thread& thread : warp.threads) {
          if (thread.done) continue;
          if (!first) first = &thread;
          size_t i = 0;
          while (i < waits.size() && std::strcmp(waits[i].first, thread.waits) != 0) ++i;
          if (i == waits.size()) waits.push_back({thread.waits, 0});
          ++waits[i].second;
        }
      }
      if (!first) continue;
      char message[160];
      int length = std::snprintf(message, sizeof(message), "%s, %d threads of the block live:",
                                 divergence ? "divergence" : "deadlock", block.living);
      for (const auto& [what, threads] : waits) {
        if (length >= static_cast<int>(sizeof(message))) break;
        length += std::snprintf(message + length, sizeof(message) - static_cast<size_t>(length),
                                " %d in %s;", threads, what);
      }
      report_message(*first, message);
      return;
    }
  }
}

// The thread whose turn is next, or null: back to the host.
Thread* next_turn() {
  for (;;) {
    if (!session.events.empty() && session.random.chance(session.policy.delivery)) deliver_event();
    if (session.random.chance(session.policy.redraw)) {
      redraw(*session.warps[session.random.below(session.warps.size())]);
    }
    if (!session.status.ok) return nullptr;
    Warp* best = nullptr;
    for (Warp* warp : session.warps) {
      if (warp->ready && (!best || warp->priority > best->priority)) best = warp;
    }
    if (best) {
      const uint32_t later = best->ready & (~uint32_t{0} << best->first_lane);
      return &best->threads[__builtin_ctz(later ? later : best->ready)];
    }
    if (!deliver_event()) report_deadlock();
  }
}

// Gives the turn to `next`, or to the host; returns when the caller has it again.
void turn_to(Thread* next) {
  Fiber& from = self ? *self->fiber : session.host;
  if (next == self) return;
  self = next;
  Fiber::change(from, next ? *next->fiber : session.host);
}

// Ends the launch, whose fault has been reported.
[[noreturn]] void stop() {
  for (;;) turn_to(nullptr);
}

Warp& warp_of(const Thread& thread) { return thread.block->warps[thread.idx / kWarpSize]; }
uint32_t lane_bit(const Thread& thread) { return 1u << (thread.idx % kWarpSize); }

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

// Ended threads are not waited for.
void release_if_complete(Meeting& meeting, int living) {
  if (!meeting.arrived.empty() && static_cast<int>(meeting.arrived.size()) == living) {
    release(meeting, Orders::kMemory);
  }
}

void thread_main() {
  session.launch->body(session.launch->args);
  something_happened();
  Block& block = *self->block;
  Warp& warp = warp_of(*self);
  self->done = true;
  warp.ready &= ~lane_bit(*self);
  --warp.living;
  if (!warp.meeting.arrived.empty()) {
    fail("divergence: the thread ended, thread %d of its warp is in %s",
         warp.meeting.arrived[0]->idx, warp.meeting.what);
  }
  if (--block.living == 0 && block.incoming > 0) {
    fail("the block ends before %lld asynchronous stores to it have come",
         static_cast<long long>(block.incoming));
  }
  release_if_complete(block.meeting, block.living);
  release_if_complete(block.cluster->meeting, --block.cluster->living);
  turn_to(block.cluster->living == 0 ? nullptr : next_turn());
}

void start(Cluster& cluster) {
  for (Block& block : cluster.blocks) {
    for (Warp& warp : block.warps) {
      session.warps.push_back(&warp);
      redraw(warp);
      for (Thread& thread : warp.threads) {
        if (session.free_fibers.empty()) {
          session.fibers.push_back(std::make_unique<Fiber>());
          session.free_fibers.push_back(session.fibers.back().get());
        }
        thread.fiber = session.free_fibers.back();
        session.free_fibers.pop_back();
        thread.fiber->prepare(thread_main);
      }
    }
  }
}

void retire(size_t idx) {
  for (Block& block : session.clusters[idx]->blocks) {
    for (Warp& warp : block.warps) {
      for (Thread& thread : warp.threads) session.free_fibers.push_back(thread.fiber);
    }
  }
  session.clusters.erase(session.clusters.begin() + static_cast<std::ptrdiff_t>(idx));
  session.warps.clear();
  for (const auto& cluster : session.clusters) {
    for (Block& block : cluster->blocks) {
      for (Warp& warp : block.warps) session.warps.push_back(&warp);
    }
  }
}

}  // namespace

Cluster::Cluster(const Launch& launch, int64_t idx)
    : clocks(launch.shape.cluster * launch.shape.threads, launch.shape.cluster * kMaxMbarriers),
      blocks(launch.shape.cluster) {
  const fusedrnn::LaunchShape& shape = launch.shape;
  const int64_t clusters_x = shape.grid_x / shape.cluster;
  living = shape.cluster * shape.threads;
  for (int rank = 0; rank < shape.cluster; ++rank) {
    Block& block = blocks[rank];
    block.cluster = this;
    block.rank = rank;
    block.x = idx % clusters_x * shape.cluster + rank;
    block.y = idx / clusters_x % shape.grid_y;
    block.z = idx / clusters_x / shape.grid_y;
    block.living = shape.threads;
    block.smem = std::make_unique<SharedMemory>(shape.smem_bytes);
    block.warps = std::vector<Warp>(shape.threads / kWarpSize);
    for (size_t w = 0; w < block.warps.size(); ++w) {
      Warp& warp = block.warps[w];
      warp.block = &block;
      warp.ready = ~uint32_t{0};
      warp.living = kWarpSize;
      warp.threads = std::vector<Thread>(kWarpSize);
      for (int lane = 0; lane < kWarpSize; ++lane) {
        Thread& thread = warp.threads[lane];
        thread.block = &block;
        thread.idx = static_cast<int>(w) * kWarpSize + lane;
        thread.clock = rank * shape.threads + thread.idx;
      }
    }
  }
}

void set_seed(uint64_t seed) { session.random = Random(seed); }

Status run(const Launch& launch) {
  session.launch = &launch;
  session.status = {};
  session.idle_polls = 0;
  session.polling_priority = kPolling;
  draw_policy();
  // Clusters start in random order.
  std::vector<int64_t> waiting(launch.shape.blocks() / launch.shape.cluster);
  std::iota(waiting.begin(), waiting.end(), int64_t{0});
  const size_t resident = launch.shape.residency == fusedrnn::Residency::kWholeGrid
                              ? waiting.size()
                              : session.policy.resident;
  while (session.status.ok) {
    for (size_t i = session.clusters.size(); i-- > 0;) {
      if (session.clusters[i]->living == 0) retire(i);
    }
    while (session.clusters.size() < resident && !waiting.empty()) {
      std::swap(waiting[session.random.below(waiting.size())], waiting.back());
      session.clusters.push_back(std::make_unique<Cluster>(launch, waiting.back()));
      waiting.pop_back();
      start(*session.clusters.back());
    }
    if (session.clusters.empty()) break;
    turn_to(next_turn());
  }
  // The end of a launch is a fence: what is under way arrives.
  while (session.status.ok && deliver_event()) {
  }
  session.events.clear();
  while (!session.clusters.empty()) retire(session.clusters.size() - 1);
  return session.status;
}

const fusedrnn::LaunchShape& shape() { return session.launch->shape; }
Random& random() { return session.random; }
Events& events() { return session.events; }
bool torn_stores() { return session.policy.torn; }

void report(const Thread& thread, const char* format, ...) {
  char message[192];
  va_list args;
  va_start(args, format);
  std::vsnprintf(message, sizeof(message), format, args);
  va_end(args);
  report_message(thread, message);
}

void fail(const char* format, ...) {
  char message[192];
  va_list args;
  va_start(args, format);
  std::vsnprintf(message, sizeof(message), format, args);
  va_end(args);
  report_message(*self, message);
  stop();
}

void yield() { turn_to(next_turn()); }

void yield_polling(const void* ptr) {
  const int64_t living = living_threads();
  const bool again = std::exchange(self->polled, ptr) == ptr;
  if (again || session.idle_polls > living) {
    Warp& warp = warp_of(*self);
    warp.priority = --session.polling_priority;
    warp.first_lane = (self->idx + 1) % kWarpSize;
  }
  if (++session.idle_polls > living && !session.events.empty()) deliver_event();
  if (session.idle_polls > kIdlePolls * living) {
    fail("deadlock, the thread looks at memory that nobody will change");
  }
  yield();
}

void wait(const char* what) {
  self->waits = what;
  warp_of(*self).ready &= ~lane_bit(*self);
  yield();
}

void wake(Thread& thread) {
  thread.waits = nullptr;
  warp_of(thread).ready |= lane_bit(thread);
}

void meet(Meeting& meeting, const char* what, int parameter, int expected, Orders orders) {
  if (!meeting.arrived.empty() &&
      (std::strcmp(meeting.what, what) != 0 || meeting.parameter != parameter)) {
    fail("divergence: in %s(%d), thread %d is in %s(%d)", what, parameter, meeting.arrived[0]->idx,
         meeting.what, meeting.parameter);
  }
  meeting.what = what;
  meeting.parameter = parameter;
  meeting.arrived.push_back(self);
  if (static_cast<int>(meeting.arrived.size()) < expected) return wait(what);
  release(meeting, orders);
  yield();
}

bool check_shared(const Thread& by, Block& block, Access access, int64_t offset, int64_t bytes,
                  Epoch now, int own, const std::vector<uint32_t>& known) {
  Epoch other = 0;
  const char* fault =
      block.smem->check(access, offset, bytes, now, own, known, session.random, &other);
  if (!fault) return true;
  const int threads = shape().threads, clock = epoch_thread(other);
  const bool clusters = shape().cluster > 1;
  char where[32] = "", whose[48] = "";
  if (clusters) std::snprintf(where, sizeof(where), " of cluster block %d", block.rank);
  if (other != 0 && clock >= threads * shape().cluster) {
    std::snprintf(whose, sizeof(whose), " of an asynchronous store");
  } else if (other != 0 && clusters) {
    std::snprintf(whose, sizeof(whose), " of cluster block %d, thread %d", clock / threads,
                  clock % threads);
  } else if (other != 0) {
    std::snprintf(whose, sizeof(whose), " of thread %d", clock);
  }
  report(by, "%s of shared bytes [%lld, %lld) of %lld%s %s%s",
         access == Access::kRead ? "read" : "write", static_cast<long long>(offset),
         static_cast<long long>(offset + bytes), static_cast<long long>(block.smem->bytes()), where,
         fault, whose);
  return false;
}

uint8_t* access_shared(Access access, int64_t offset, int64_t bytes) {
  if (session.accesses_left != kNoLimit && session.accesses_left-- == 0) {
    session.accesses_left = draw_turn();
    yield();
  }
  if (access == Access::kWrite) something_happened();
  Block& block = *self->block;
  const Clocks& clocks = block.cluster->clocks;
  if (!check_shared(*self, block, access, offset, bytes, clocks.now(self->clock), self->clock,
                    clocks.known(self->clock))) {
    stop();
  }
  return block.smem->data() + offset;
}

void store_late(void* ptr, const void* value, size_t bytes) {
  uint64_t bits = 0;
  std::memcpy(&bits, value, bytes);
  session.events.push(reinterpret_cast<uintptr_t>(ptr),
                      [ptr, bits, bytes] { std::memcpy(ptr, &bits, bytes); });
  something_happened();
}

void sync_block() {
  Block& block = *self->block;
  meet(block.meeting, "sync_block", 0, block.living, Orders::kMemory);
}

void sync_cluster() {
  Cluster& cluster = *self->block->cluster;
  meet(cluster.meeting, "sync_cluster", 0, cluster.living, Orders::kMemory);
}

namespace {

void meet_warp(Warp& warp, const char* what, int parameter, Orders orders) {
  if (warp.living < kWarpSize) fail("divergence: %s after a thread of the warp ended", what);
  meet(warp.meeting, what, parameter, kWarpSize, orders);
}

}  // namespace

void sync_warp() { meet_warp(warp_of(*self), "sync_warp", 0, Orders::kMemory); }

uint64_t shuffle(uint64_t value, int source, const char* what, int parameter) {
  if (source < 0 || source >= kWarpSize) fail("%s: there is no lane %d", what, source);
  Warp& warp = warp_of(*self);
  uint64_t* exchanged = warp.exchanged[warp.exchange];
  exchanged[self->idx % kWarpSize] = value;
  if (warp.meeting.arrived.size() + 1 == kWarpSize) warp.exchange ^= 1;
  meet_warp(warp, what, parameter, Orders::kNothing);
  return exchanged[source];
}

}  // namespace cudasim
