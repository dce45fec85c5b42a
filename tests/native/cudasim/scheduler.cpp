#include "scheduler.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <utility>

#include "global_memory.h"
#include "meeting.h"
#include "random.h"

namespace cudasim {

using fusedrnn::kWarpSize;
using fusedrnn::Status;

Thread* self = nullptr;

namespace {

// How a launch is scheduled.
struct Policy {
  Chance redraw;    // chance of a new priority for some warp, each turn
  bool by_block;    // priorities order blocks before warps
  uint32_t turn;    // accesses to shared memory in a turn, on average; 0: no limit
  Chance delivery;  // chance of an event, each turn
  bool torn;        // asynchronous stores arrive word by word
  Kept kept;        // of concurrent readers
};

struct Session {
  std::vector<std::unique_ptr<RunningLaunch>> launches;  // one, or two: the older one first
  uint64_t num_launches = 0;
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

// What threads wait for that have come to wait_for_launch_before.
constexpr const char* kLaunchBefore = "wait_for_launch_before";

uint32_t draw_turn() {
  return session.policy.turn == 0 ? kNoLimit : session.random.below(2 * session.policy.turn);
}

void draw_policy() {
  constexpr Chance kRedraws[] = {0.99, 0.1, 0.01, 0};
  constexpr uint32_t kTurns[] = {0, 1000, 60, 6};
  constexpr Chance kDeliveries[] = {0, 0.01, 0.2, 0.9};
  Random& random = session.random;
  session.policy.redraw = kRedraws[random.below(4)];
  session.policy.by_block = random.below(2) == 0;
  session.policy.turn = kTurns[random.below(4)];
  session.policy.delivery = kDeliveries[random.below(4)];
  session.policy.torn = random.below(2) == 0;
  session.policy.kept = random.below(2) == 0 ? Kept::kFirst : Kept::kLast;
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
  session.status = Status::error("%s: block (%lld, %lld, %lld), thread %d: %s",
                                 block.cluster->launch->launch.kernel,
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

void trigger(Block& block) {
  if (std::exchange(block.triggered, true)) return;
  --block.cluster->launch->untriggered;
}

// The end of a launch is a fence: what is under way arrives, and who waits for it goes on.
void end_launch() {
  while (session.status.ok && deliver_event()) {
  }
  for (Warp* warp : session.warps) {
    for (Thread& thread : warp->threads) {
      if (thread.waits == kLaunchBefore) wake(thread);
    }
  }
}

void end_block(Block& block) {
  trigger(block);
  if (--block.cluster->launch->living == 0) end_launch();
}

void thread_main() {
  Block& block = *self->block;
  const RunningLaunch& launch = *block.cluster->launch;
  launch.launch.body(launch.args.data());
  something_happened();
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
  if (block.living == 0) end_block(block);
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
      for (Thread& thread : warp.threads) {
        if (!thread.done) thread.fiber->abandon();
        session.free_fibers.push_back(thread.fiber);
      }
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

// Clusters begin in random order.
void begin_clusters(RunningLaunch& launch) {
  size_t running = 0;
  for (const auto& cluster : session.clusters) running += cluster->launch == &launch;
  for (; running < launch.resident && !launch.waiting.empty(); ++running) {
    std::swap(launch.waiting[session.random.below(launch.waiting.size())], launch.waiting.back());
    session.clusters.push_back(
        std::make_unique<Cluster>(&launch, launch.launch.shape, launch.waiting.back()));
    launch.waiting.pop_back();
    start(*session.clusters.back());
  }
}

// Lets threads run until at most `left` launches are.
Status run_until(size_t left) {
  while (session.status.ok) {
    for (size_t i = session.clusters.size(); i-- > 0;) {
      if (session.clusters[i]->living == 0) retire(i);
    }
    while (!session.launches.empty() && session.launches.front()->living == 0) {
      session.launches.erase(session.launches.begin());
    }
    if (session.launches.size() <= left) return {};
    const RunningLaunch* before = nullptr;
    for (const auto& launch : session.launches) {
      if (before && before->untriggered > 0) break;
      before = launch.get();
      begin_clusters(*launch);
    }
    turn_to(next_turn());
  }
  session.events.clear();
  while (!session.clusters.empty()) retire(session.clusters.size() - 1);
  session.launches.clear();
  forget_accesses();
  return std::exchange(session.status, Status{});
}

}  // namespace

void set_seed(uint64_t seed) { session.random = Random(seed); }

Status run(const Launch& launch) {
  if (!launch.shape.programmatic) {
    if (Status status = finish(); !status.ok) return status;
  }
  session.idle_polls = 0;
  session.polling_priority = kPolling;
  draw_policy();
  auto running = std::make_unique<RunningLaunch>();
  running->launch = launch;
  const char* args = static_cast<const char*>(launch.args);
  running->args.assign(args, args + launch.args_bytes);
  running->idx = ++session.num_launches;
  running->waiting.resize(launch.shape.blocks() / launch.shape.cluster);
  std::iota(running->waiting.begin(), running->waiting.end(), int64_t{0});
  running->living = running->untriggered = launch.shape.blocks();
  const size_t drawn = 1 + session.random.below(4);
  running->resident =
      launch.shape.residency == fusedrnn::Residency::kWholeGrid ? running->waiting.size() : drawn;
  session.launches.push_back(std::move(running));
  return launch.shape.programmatic ? run_until(1) : finish();
}

Status finish() {
  const Status status = run_until(0);
  forget_accesses();
  return status;
}

bool is_running(uint64_t idx) {
  return !session.launches.empty() && idx >= session.launches.front()->idx &&
         (idx > session.launches.front()->idx || session.launches.front()->living > 0);
}

bool early_store_possible(const RunningLaunch& launch) {
  return !self->has_waited && session.launches.front().get() != &launch &&
         session.launches.front()->living > 0;
}

void launch_dependents() {
  Block& block = *self->block;
  const bool is_last = !block.triggered && block.cluster->launch->untriggered == 1;
  trigger(block);
  // The host begins what may begin now.
  if (is_last && session.launches.size() > 1) turn_to(nullptr);
}

void wait_for_launch_before() {
  if (early_store_possible(*self->block->cluster->launch)) wait(kLaunchBefore);
  self->has_waited = true;
}

const fusedrnn::LaunchShape& shape() { return self->block->cluster->launch->launch.shape; }
Events& events() { return session.events; }
bool torn_stores() { return session.policy.torn; }
Kept kept_reader() { return session.policy.kept; }

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

void stop() {
  for (;;) turn_to(nullptr);
}

void something_happened() { session.idle_polls = 0; }

void yield() { turn_to(next_turn()); }

void count_access() {
  if (session.accesses_left == kNoLimit || session.accesses_left-- > 0) return;
  session.accesses_left = draw_turn();
  yield();
}

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

void store_late(void* ptr, const void* value, size_t bytes) {
  uint64_t bits = 0;
  std::memcpy(&bits, value, bytes);
  session.events.push(reinterpret_cast<uintptr_t>(ptr),
                      [ptr, bits, bytes] { std::memcpy(ptr, &bits, bytes); });
  something_happened();
}

}  // namespace cudasim
