#include "mbarrier.h"

#include <cstring>
#include <memory>

#include "access.h"
#include "scheduler.h"

namespace cudasim {
namespace {

constexpr int64_t kMbarrierBytes = 8;
constexpr int kMaxArrivals = (1 << 20) - 1;
constexpr int64_t kMaxTxBytes = (1 << 20) - 1;
constexpr int kPacketBytes = 16;
constexpr int kWordBytes = 4;

MbarrierState* find(Block& block, int64_t offset) {
  for (MbarrierState& barrier : block.mbarriers) {
    if (barrier.offset == offset) return &barrier;
  }
  return nullptr;
}

// The barrier at `offset` of the running thread's block. Its use counts as a read of the word
// that init wrote: misplaced, unordered after init or before it, it is a fault.
MbarrierState& find_own(int64_t offset) {
  access_shared(Access::kRead, offset, kMbarrierBytes);
  MbarrierState* barrier = find(*self->block, offset);
  if (!barrier) fail("no mbarrier at shared byte %lld", static_cast<long long>(offset));
  return *barrier;
}

// Counts on the barrier, and ends its phase if that was the last.
void count(const Thread& by, MbarrierState& barrier, int arrivals, int64_t tx_bytes,
           const Knowledge& knowledge) {
  if (arrivals > barrier.pending) {
    return report(by, "mbarrier at shared byte %lld: more than %d arrivals in phase %u",
                  static_cast<long long>(barrier.offset), barrier.arrivals, barrier.phase);
  }
  barrier.pending -= arrivals;
  barrier.tx_bytes += tx_bytes;
  if (barrier.tx_bytes > kMaxTxBytes || barrier.tx_bytes < -kMaxTxBytes) {
    return report(by, "mbarrier at shared byte %lld: %lld bytes under way",
                  static_cast<long long>(barrier.offset), static_cast<long long>(barrier.tx_bytes));
  }
  barrier.arrived = Clocks::merge(barrier.arrived, knowledge);
  if (barrier.pending > 0 || barrier.tx_bytes != 0) return;
  auto ended = std::make_shared<std::vector<uint32_t>>(*barrier.arrived);
  (*ended)[barrier.clock] = ++barrier.phase;
  barrier.ended = ended;
  barrier.arrived = nullptr;
  barrier.pending = barrier.arrivals;
  for (Thread* thread : barrier.waiting) wake(*thread);
  barrier.waiting.clear();
}

// One asynchronous store, in one piece or word by word.
struct AsyncStore {
  const Thread* thread;
  Block* to;
  int64_t offset;
  int64_t barrier_offset;
  Knowledge knowledge;
  uint8_t bytes[kPacketBytes];
  int left;  // words to come
};

void deliver(AsyncStore& store, int first, int size) {
  Block& block = *store.to;
  const Thread& thread = *store.thread;
  if (!check_shared(thread, block, Access::kRead, store.barrier_offset, kMbarrierBytes,
                    block.cluster->clocks.now(thread.clock), thread.clock, *store.knowledge)) {
    return;
  }
  MbarrierState* barrier = find(block, store.barrier_offset);
  if (!barrier || !barrier->fenced) {
    return report(thread, "asynchronous store: no %smbarrier at shared byte %lld",
                  barrier ? "fenced " : "", static_cast<long long>(store.barrier_offset));
  }
  const Epoch phase = static_cast<Epoch>(barrier->phase + 1) << kEpochThreadBits |
                      static_cast<Epoch>(barrier->clock);
  const int64_t offset = store.offset + first;
  if (!check_shared(thread, block, Access::kWrite, offset, size, phase, -1, *store.knowledge)) {
    return;
  }
  std::memcpy(block.smem->data() + offset, store.bytes + first, static_cast<size_t>(size));
  store.left -= size / kWordBytes;
  if (store.left > 0) return;
  --block.incoming;
  count(thread, *barrier, 0, -kPacketBytes, store.knowledge);
}

void push_store(Block& to, int64_t offset, const void* bytes, int64_t barrier_offset) {
  ++to.incoming;
  auto store = std::make_shared<AsyncStore>();
  store->thread = self;
  store->to = &to;
  store->offset = offset;
  store->barrier_offset = barrier_offset;
  store->knowledge = to.cluster->clocks.release(self->clock);
  std::memcpy(store->bytes, bytes, kPacketBytes);
  store->left = kPacketBytes / kWordBytes;
  const int size = torn_stores() ? kWordBytes : kPacketBytes;
  const auto address =
      reinterpret_cast<uintptr_t>(to.smem->data()) + static_cast<uintptr_t>(offset);
  for (int first = 0; first < kPacketBytes; first += size) {
    events().push(address + static_cast<uintptr_t>(first),
                  [store, first, size] { deliver(*store, first, size); });
  }
}

}  // namespace

void mbarrier_init(int64_t offset, int arrivals) {
  Block& block = *self->block;
  access_shared(Access::kWrite, offset, kMbarrierBytes);
  if (arrivals < 1 || arrivals > kMaxArrivals) fail("mbarrier for %d arrivals", arrivals);
  MbarrierState* barrier = find(block, offset);
  if (!barrier) {
    if (block.mbarriers.size() == kMaxMbarriers) {
      fail("more than %d mbarriers in a block", kMaxMbarriers);
    }
    block.mbarriers.emplace_back();
    barrier = &block.mbarriers.back();
    barrier->clock = shape().cluster * shape().threads + block.rank * kMaxMbarriers +
                     static_cast<int>(block.mbarriers.size()) - 1;
    barrier->offset = offset;
  }
  if (!barrier->waiting.empty()) fail("init of an mbarrier that threads wait for");
  barrier->arrivals = barrier->pending = arrivals;
  barrier->tx_bytes = 0;
  barrier->fenced = false;
}

void mbarrier_init_fence() {
  for (MbarrierState& barrier : self->block->mbarriers) barrier.fenced = true;
}

void mbarrier_arrive(int64_t offset, int64_t tx_bytes) {
  MbarrierState& barrier = find_own(offset);
  count(*self, barrier, 1, tx_bytes, self->block->cluster->clocks.release(self->clock));
  yield();
}

void mbarrier_wait(int64_t offset, int parity) {
  if (parity != 0 && parity != 1) fail("mbarrier_wait for parity %d", parity);
  MbarrierState* barrier = &find_own(offset);
  while (static_cast<int>(barrier->phase & 1) == parity) {
    barrier->waiting.push_back(self);
    wait("mbarrier_wait");
    barrier = find(*self->block, offset);
  }
  if (barrier->ended) self->block->cluster->clocks.acquire(self->clock, barrier->ended);
}

void store_async(int64_t offset, const void* bytes, int64_t barrier_offset, int rank) {
  Cluster& cluster = *self->block->cluster;
  if (rank < 0 || rank >= static_cast<int>(cluster.blocks.size())) {
    fail("asynchronous store to block %d of a cluster of %d", rank,
         static_cast<int>(cluster.blocks.size()));
  }
  Block& to = cluster.blocks[static_cast<size_t>(rank)];
  if (to.living == 0) fail("asynchronous store to block %d, which has ended", rank);
  if (offset % kPacketBytes != 0) {
    fail("asynchronous store to shared byte %lld: misaligned", static_cast<long long>(offset));
  }
  push_store(to, offset, bytes, barrier_offset);
  yield();
}

}  // namespace cudasim
