// The simulator's primitives against plain results, and planted faults that it must find: in how
// many of the scheduling seeds is printed and has a minimum.
//
// Each kernel has a Fault argument; with Fault::kNone it is right. FUSEDRNN_SIM_SEEDS is the
// number of seeds, 48 otherwise. Long because a kernel, what it should give and its faults belong
// together.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "check.h"
#include "cuda/device/barrier.cuh"
#include "cuda/device/cluster.cuh"
#include "cuda/device/launch.cuh"
#include "cuda/device/memory.cuh"
#include "cuda/device/mma.cuh"
#include "cuda/device/programmatic.cuh"
#include "cuda/device/shared.cuh"
#include "cuda/device/thread.cuh"
#include "math/half.h"
#include "seeds.h"

using namespace fusedrnn;

namespace {

const int kSeeds = cudasim::num_seeds(48);

enum class Fault {
  kNone,
  kNoBarrierBeforeRead,
  kNoBarrierBeforeWrite,
  kBarrierInBranch,
  kOverrun,
  kUnderrun,
  kUninitialised,
  kMisaligned,
  kNoWarpBarrier,
  kTwoMasks,
  kLaneGone,
  kCountTooSmall,
  kCountTooLarge,
  kTwoCounts,
  kNoWait,
  kWrongParity,
  kShortExpect,
  kLongExpect,
  kOneBuffer,
  kNoClusterBarrier,
  kNoFence,
  kNoInit,
  kSecondArrival,
  kMissingArrival,
  kMisalignedStore,
  kEarlyEnd,
  kNoTag,
  kOneTagOfFour,
  kNotPublished,
  kNotResident,
  kNotRounded,
  kOneInstructionOfTwo,
  kReadOnlyOwn,
  kOtherBlock,
  kTwoStores,
  kNoLaunchWait,
  kStoreBeforeWait,
};

LaunchShape make_shape(int64_t blocks, int threads, int64_t smem_bytes, int cluster = 1,
                       Residency residency = Residency::kAny) {
  LaunchShape shape;
  shape.grid_x = blocks;
  shape.threads = threads;
  shape.smem_bytes = smem_bytes;
  shape.cluster = cluster;
  shape.residency = residency;
  return shape;
}

// What a run under one seed came to.
struct Outcome {
  Status status;
  bool right = false;
  bool sees_fault() const { return !status.ok || !right; }
};

template <class Run>
void expect_right(const char* name, const Run& run) {
  for (int seed = 0; seed < kSeeds; ++seed) {
    cudasim::set_seed(static_cast<uint64_t>(seed));
    const Outcome outcome = run();
    CHECK_THAT(outcome.status.ok, "%s, seed %d: %s", name, seed, outcome.status.message);
    CHECK_THAT(outcome.right, "%s, seed %d", name, seed);
  }
}

// `share` of the seeds, at least, must see the fault; `says` is in the message of those that
// do not just give a wrong result.
template <class Run>
void expect_found(const char* name, double share, const char* says, const Run& run) {
  int found = 0;
  const char* example = "a wrong result";
  Status first;
  for (int seed = 0; seed < kSeeds; ++seed) {
    cudasim::set_seed(static_cast<uint64_t>(seed));
    const Outcome outcome = run();
    found += outcome.sees_fault();
    if (outcome.status.ok) continue;
    CHECK_THAT(std::strstr(outcome.status.message, says), "%s, seed %d: %s", name, seed,
               outcome.status.message);
    if (first.ok) {
      first = outcome.status;
      example = first.message;
    }
  }
  std::printf("  %-46s %3d/%d seeds: %s\n", name, found, kSeeds, example);
  CHECK_THAT(found >= static_cast<int>(share * kSeeds), "%s: %d of %d seeds", name, found, kSeeds);
}

// Each thread gives its value to the next one of the block, `rounds` times.
template <Fault kFault>
struct Rotate {
  struct Args {
    float* out;  // [blocks, threads]
    int rounds;
  };
  static constexpr const char* kName = "rotate";
  static constexpr int kMaxThreads = 256;

  static FUSEDRNN_DEV void run(const Args& args) {
    const Shared<float> word = shared_memory<float>(0);
    const int t = thread_idx(), last = num_threads() - 1;
    float value = static_cast<float>(t);
    for (int round = 0; round < args.rounds; ++round) {
      if (kFault != Fault::kUninitialised || t > 0) word.store(t, value);
      if (kFault != Fault::kNoBarrierBeforeRead && (kFault != Fault::kBarrierInBranch || t < last))
        sync_block();
      const int next = t < last || kFault == Fault::kOverrun ? t + 1 : 0;
      value = kFault == Fault::kUnderrun ? word.load(t - 1)
              : kFault == Fault::kMisaligned
                  ? word.as<uint16_t>().offset(1).as<float>().load(t % last)
                  : word.load(next);
      if (kFault != Fault::kNoBarrierBeforeWrite) sync_block();
    }
    args.out[block_idx_x() * num_threads() + t] = value;
  }
};

template <Fault kFault>
Outcome rotate(int blocks, int threads, int rounds) {
  std::vector<float> out(static_cast<size_t>(blocks) * threads, -1);
  Outcome outcome{launch<Rotate<kFault>>(make_shape(blocks, threads, threads * 4),
                                         {out.data(), rounds}, nullptr),
                  true};
  for (int i = 0; i < blocks * threads; ++i) {
    if (out[i] != static_cast<float>((i % threads + rounds) % threads)) outcome.right = false;
  }
  return outcome;
}

// Sums over a warp: by shuffles, and through shared memory.
template <class T, Fault kFault>
struct WarpSum {
  struct Args {
    const T* in;   // [threads]
    T* butterfly;  // [threads]
    T* tree;       // [threads / 32]
    T* shared;     // [threads]
  };
  static constexpr const char* kName = "warp_sum";
  static constexpr int kMaxThreads = 128;

  static FUSEDRNN_DEV void run(const Args& args) {
    const int t = thread_idx(), lane = lane_idx();
    const T value = ldg(args.in + t);
    T sum = value;
    if (kFault == Fault::kLaneGone && t == 5) return;
    for (int mask = 16; mask > 0; mask /= 2) {
      sum += shuffle_xor(sum, kFault == Fault::kTwoMasks && t == 5 ? 1 : mask);
    }
    args.butterfly[t] = sum;
    T tree = value;
    for (int delta = 16; delta > 0; delta /= 2) tree += shuffle_down(tree, delta);
    if (lane == 0) args.tree[warp_idx()] = tree;

    const Shared<T> words = shared_memory<T>(0).offset(t - lane);
    words.store(lane, value);
    if (kFault != Fault::kNoWarpBarrier) sync_warp();
    T total = 0;
    for (int i = 0; i < 32; ++i) total += words.load(i);
    args.shared[t] = total;
  }
};

template <class T, Fault kFault>
Outcome warp_sum() {
  constexpr int kThreads = 96;
  std::vector<T> in(kThreads), butterfly(kThreads), tree(kThreads / 32), shared(kThreads);
  std::iota(in.begin(), in.end(), static_cast<T>(1));
  Outcome outcome{launch<WarpSum<T, kFault>>(
                      make_shape(1, kThreads, kThreads * sizeof(T)),
                      {in.data(), butterfly.data(), tree.data(), shared.data()}, nullptr),
                  true};
  for (int t = 0; t < kThreads; ++t) {
    const T sum = std::accumulate(in.begin() + t / 32 * 32, in.begin() + (t / 32 + 1) * 32, T{0});
    if (butterfly[t] != sum || shared[t] != sum || tree[t / 32] != sum) outcome.right = false;
  }
  return outcome;
}

// The block in halves, each of which turns its values round by a named barrier of its own.
template <Fault kFault>
struct Halves {
  struct Args {
    int* out;  // [threads]
  };
  static constexpr const char* kName = "halves";
  static constexpr int kMaxThreads = 256;

  static FUSEDRNN_DEV void run(const Args& args) {
    const Shared<int> words = shared_memory<int>(0);
    const int t = thread_idx(), half = num_threads() / 2, group = t / half;
    int count = half;
    if (kFault == Fault::kCountTooSmall) count = half - 32;
    if (kFault == Fault::kCountTooLarge && group == 1) count = half + 32;
    if (kFault == Fault::kTwoCounts && t == half - 1) count = half + 32;
    words.store(t, t);
    sync_named(1 + group, count);
    args.out[t] = words.load(group * half + half - 1 - t % half);
  }
};

template <Fault kFault>
Outcome halves() {
  constexpr int kThreads = 256;
  std::vector<int> out(kThreads);
  Outcome outcome{
      launch<Halves<kFault>>(make_shape(1, kThreads, kThreads * 4), {out.data()}, nullptr), true};
  for (int t = 0; t < kThreads; ++t) {
    if (out[t] != t / 128 * 128 + 127 - t % 128) outcome.right = false;
  }
  return outcome;
}

// Warp 0 hands numbers to warp 1 through two slots, with an mbarrier for full and one for empty.
template <Fault kFault>
struct Pipeline {
  struct Args {
    float* out;  // [rounds, 32]
    int rounds;
  };
  static constexpr const char* kName = "pipeline";
  static constexpr int kMaxThreads = 64;

  static FUSEDRNN_DEV void run(const Args& args) {
    const Shared<uint64_t> words = shared_memory<uint64_t>(0);
    const Shared<float> slots = shared_memory<float>(32);
    const int lane = lane_idx();
    if (thread_idx() == 0) {
      for (int i = 0; i < 4; ++i) Mbarrier(words, i).init(32);
    }
    sync_block();
    for (int round = 0; round < args.rounds; ++round) {
      const int slot = round & 1, parity = (round >> 1) & 1;
      const Mbarrier full(words, slot), empty(words, 2 + slot);
      const Shared<float> place = slots.offset(slot * 32);
      if (warp_idx() == 0) {
        // Before the first round of a slot, its empty barrier counts as ended.
        empty.wait(kFault == Fault::kWrongParity ? parity : parity ^ 1);
        place.store(lane, static_cast<float>(round * 32 + lane));
        if (kFault != Fault::kMissingArrival || lane != 7) full.arrive();
        if (kFault == Fault::kSecondArrival && lane == 7) full.arrive();
      } else {
        if (kFault != Fault::kNoWait) full.wait(parity);
        args.out[round * 32 + lane] = place.load(31 - lane);
        empty.arrive();
      }
    }
  }
};

template <Fault kFault>
Outcome pipeline() {
  constexpr int kRounds = 7;
  std::vector<float> out(kRounds * 32);
  Outcome outcome{
      launch<Pipeline<kFault>>(make_shape(1, 64, 32 + 256), {out.data(), kRounds}, nullptr), true};
  for (int i = 0; i < kRounds * 32; ++i) {
    if (out[i] != static_cast<float>(i / 32 * 32 + 31 - i % 32)) outcome.right = false;
  }
  return outcome;
}

// A recurrence over a cluster. A thread owns a unit; each step it needs all units of the
// cluster, which the blocks send to one another, into one of two buffers:
//   x'[u] = sum over v of x[v] * (1 + (u + v) % 3) modulo 1021
template <Fault kFault>
struct Gather {
  struct Args {
    float* out;  // [clusters, units]
    int steps;
  };
  static constexpr const char* kName = "gather";
  static constexpr int kMaxThreads = 128;

  static constexpr int64_t smem_bytes(int units, int threads) {
    return 16 + 4 * (2 * units + threads) + 16;
  }

  static FUSEDRNN_DEV void publish(float x, int buffer, int units) {
    const int t = thread_idx();
    const int at = kFault == Fault::kMisalignedStore ? 2 : 0;
    const Shared<float> mine = shared_memory<float>(16), all = mine.offset(num_threads());
    const Shared<float> to = all.offset(kFault == Fault::kOneBuffer ? 0 : buffer * units);
    mine.store(t, x);
    sync_block();
    if (4 * t >= num_threads()) return;
    const Packet<float> packet = mine.load_packet(4 * t);
    const Mbarrier barrier(shared_memory<uint64_t>(0), buffer);
    for (int rank = 0; rank < cluster_size(); ++rank) {
      store_async(to, cluster_rank() * num_threads() + 4 * t + at, packet, barrier, rank);
    }
  }

  static FUSEDRNN_DEV void run(const Args& args) {
    const int t = thread_idx(), units = cluster_size() * num_threads();
    const int unit = cluster_rank() * num_threads() + t;
    const Shared<uint64_t> words = shared_memory<uint64_t>(0);
    const Shared<float> all = shared_memory<float>(16).offset(num_threads());
    int expected = 4 * units;
    if (kFault == Fault::kShortExpect) expected -= 16;
    if (kFault == Fault::kLongExpect) expected += 16;
    if (t == 0) {
      for (int i = 0; i < 2; ++i) {
        if (kFault != Fault::kNoInit || i == 0) Mbarrier(words, i).init(1);
      }
      if (kFault != Fault::kNoFence) fence_mbarrier_init();
    }
    if (kFault == Fault::kNoClusterBarrier) {
      sync_block();
    } else {
      sync_cluster();
    }
    if (t == 0) {
      Mbarrier(words, 0).arrive_expect_tx(expected);
      Mbarrier(words, 1).arrive_expect_tx(expected);
    }
    float x = static_cast<float>(unit);
    publish(x, 0, units);
    for (int step = 0; step < args.steps; ++step) {
      const Mbarrier barrier(words, step & 1);
      if (kFault != Fault::kNoWait) {
        barrier.wait((step >> 1) & 1);
        // These are the bytes of step + 2, which come to the buffer that this step reads.
        if (t == 0) barrier.arrive_expect_tx(expected);
      }
      const Shared<float> from = all.offset(kFault == Fault::kOneBuffer ? 0 : (step & 1) * units);
      int sum = 0;
      for (int v = 0; v < units; ++v) sum += static_cast<int>(from.load(v)) * (1 + (unit + v) % 3);
      x = static_cast<float>(sum % 1021);
      if (step + 1 < args.steps || kFault == Fault::kEarlyEnd) publish(x, (step + 1) & 1, units);
    }
    args.out[block_idx_x() * num_threads() + t] = x;
  }
};

template <Fault kFault>
Outcome gather(int cluster, int threads, int steps, int clusters = 1) {
  const int units = cluster * threads;
  std::vector<float> out(static_cast<size_t>(units) * clusters);
  const LaunchShape shape =
      make_shape(cluster * clusters, threads, Gather<kFault>::smem_bytes(units, threads), cluster);
  Outcome outcome{launch<Gather<kFault>>(shape, {out.data(), steps}, nullptr), true};
  std::vector<int> x(units), next(units);
  std::iota(x.begin(), x.end(), 0);
  for (int step = 0; step < steps; ++step) {
    for (int u = 0; u < units; ++u) {
      int sum = 0;
      for (int v = 0; v < units; ++v) sum += x[v] * (1 + (u + v) % 3);
      next[u] = sum % 1021;
    }
    x = next;
  }
  for (int i = 0; i < units * clusters; ++i) {
    if (out[i] != static_cast<float>(x[i % units])) outcome.right = false;
  }
  return outcome;
}

// A recurrence over the whole grid, through global memory: packets of four words, each of which
// carries the step in its low 8 bits. Every thread looks at every packet until all words have
// come. The units are the words of the packets:
//   x'[b, i] = sum over all units + i modulo 65521
template <Fault kFault>
struct Poll {
  static constexpr int kPackets = 4;  // of a block
  static constexpr int kUnits = 4 * kPackets;
  struct Args {
    uint32_t* exchange;  // [2, blocks, kUnits], zeros
    uint32_t* out;       // [blocks, threads]
    int steps;
  };
  static constexpr const char* kName = "poll";
  static constexpr int kMaxThreads = 64;

  static FUSEDRNN_DEV bool come(const Packet<uint32_t>& packet, uint32_t tag) {
    if (kFault == Fault::kNoTag) return true;
    bool all = true;
    for (int i = 0; i < (kFault == Fault::kOneTagOfFour ? 1 : 4); ++i) {
      all = all && (packet[i] & 0xFF) == tag;
    }
    return all;
  }

  static FUSEDRNN_DEV void run(const Args& args) {
    const int t = thread_idx();
    const int64_t units = grid_dim_x() * kUnits;
    uint32_t total = 0;
    for (int step = 0; step < args.steps; ++step) {
      uint32_t* const buffer = args.exchange + (step & 1) * units;
      const uint32_t tag = static_cast<uint32_t>(step + 1);
      if (t < kPackets && (kFault != Fault::kNotPublished || step != 1 || block_idx_x() != 0)) {
        Packet<uint32_t> packet;
        for (uint32_t i = 0; i < 4; ++i) packet[i] = (total + 4 * t + i) % 65521 << 8 | tag;
        store_relaxed_packet(buffer + block_idx_x() * kUnits + 4 * t, packet);
      }
      total = 0;
      for (int64_t i = 0; i < units; i += 4) {
        Packet<uint32_t> packet;
        do {
          packet = load_relaxed_packet(buffer + i);
        } while (!come(packet, tag));
        for (int k = 0; k < 4; ++k) total += packet[k] >> 8;
      }
      // The block's packets of step + 2 go where this step's are: all have read them.
      if (kFault != Fault::kNoBarrierBeforeWrite) sync_block();
    }
    args.out[block_idx_x() * num_threads() + t] = total;
  }
};

template <Fault kFault, int kBlocks = 3>
Outcome poll() {
  constexpr int kThreads = 64, kSteps = 5, kUnits = Poll<kFault>::kUnits;
  std::vector<uint32_t> exchange(2 * kBlocks * kUnits), out(kBlocks * kThreads);
  const LaunchShape shape =
      make_shape(kBlocks, kThreads, 0, 1,
                 kFault == Fault::kNotResident ? Residency::kAny : Residency::kWholeGrid);
  Outcome outcome{launch<Poll<kFault>>(shape, {exchange.data(), out.data(), kSteps}, nullptr),
                  true};
  uint32_t total = 0;
  for (int step = 0; step < kSteps; ++step) {
    uint32_t sum = 0;
    for (uint32_t i = 0; i < kUnits; ++i) sum += kBlocks * ((total + i) % 65521);
    total = sum;
  }
  for (uint32_t value : out) {
    if (value != total) outcome.right = false;
  }
  return outcome;
}

// Where every thread stands, and what converts and moves without meeting anybody.
struct Stand {
  struct Args {
    int* visits;  // [z, y, x, threads]
  };
  static constexpr const char* kName = "stand";
  static constexpr int kMaxThreads = 64;

  static FUSEDRNN_DEV void run(const Args& args) {
    const int64_t block =
        (block_idx_z() * grid_dim_y() + block_idx_y()) * grid_dim_x() + block_idx_x();
    args.visits[block * num_threads() + warp_idx() * 32 + lane_idx()] += 1 + thread_idx();
  }
};

template <class S>
struct Convert {
  static constexpr int kThreads = 32;
  struct Args {
    const S* in;       // [kThreads * Packet<S>::kSize]
    accum_t<S>* wide;  // the same
    S* out;            // the same
  };
  static constexpr const char* kName = "convert";
  static constexpr int kMaxThreads = kThreads;

  static FUSEDRNN_DEV void run(const Args& args) {
    constexpr int kSize = Packet<S>::kSize;
    const Shared<S> words = shared_memory<double>(0).as<S>();
    const int64_t first = thread_idx() * kSize;
    words.store_packet(first, ldg_packet(args.in + first));
    const Packet<S> packet = words.load_packet(first);
    for (int i = 0; i < kSize; ++i) {
      args.wide[first + i] = to_accum(packet[i]);
      args.out[first + i] = from_accum<S>(to_accum(words.load(first + i)));
    }
  }
};

template <class S>
void check_conversion(const std::vector<S>& in) {
  using A = accum_t<S>;
  std::vector<A> wide(in.size());
  std::vector<S> out(in.size());
  const Status status =
      launch<Convert<S>>(make_shape(1, 32, 512), {in.data(), wide.data(), out.data()}, nullptr);
  CHECK_THAT(status.ok, "%s", status.message);
  for (size_t i = 0; i < in.size(); ++i) {
    CHECK(std::memcmp(&in[i], &out[i], sizeof(S)) == 0);
    CHECK(wide[i] == to_accum(in[i]));
  }
}

// A warp multiplies a [16, depth], from shared memory by ldmatrix, by b [8, depth].
template <class T, Fault kFault>
struct Multiply {
  static constexpr int kDepth = 32 / static_cast<int>(sizeof(T));
  struct Args {
    const T* a;  // [16, kDepth]
    const T* b;  // [8, kDepth]
    float* sum;  // [16, 8]
  };
  static constexpr const char* kName = "multiply";
  static constexpr int kMaxThreads = 32;

  static FUSEDRNN_DEV void run(const Args& args) {
    const int group = lane_idx() / 4, q = lane_idx() % 4;
    const Shared<T> rows = shared_memory<T>(0);
    for (int i = lane_idx(); i < 16 * kDepth; i += kWarpSize) rows.store(i, ldg(args.a + i));
    sync_warp();
    // Matrices: rows 0 and 8, of the first half of the depth, then of the second one.
    uint32_t a[4];
    const int matrix = lane_idx() / 8;
    ldmatrix(rows, (matrix % 2 * 8 + lane_idx() % 8) * kDepth + matrix / 2 * (kDepth / 2), a);
    const auto* b_words = reinterpret_cast<const uint32_t*>(args.b) + group * 8 + q;
    uint32_t b[2] = {ldg(b_words), ldg(b_words + 4)};
    if (sizeof(T) == 4 && kFault != Fault::kNotRounded) {
      for (uint32_t& word : a) word = round_to_tf32(word);
      for (uint32_t& word : b) word = round_to_tf32(word);
    }
    float sum[4] = {0, 0, 0, 0};
    if (kFault == Fault::kOneInstructionOfTwo && group == 3) {
      any_of_warp(true);
    } else {
      mma<std::conditional_t<sizeof(T) == 4, Tf32, T>>(sum, a, b);
    }
    for (int i = 0; i < 4; ++i) {
      store_global(args.sum + (i / 2 * 8 + group) * 8 + 2 * q + i % 2, sum[i]);
    }
  }
};

template <class T, Fault kFault>
Outcome multiply() {
  using Kernel = Multiply<T, kFault>;
  constexpr int kDepth = Kernel::kDepth;
  std::vector<T> a(16 * kDepth), b(8 * kDepth);
  // Of few bits, so that every sum is exact; of many for the fault.
  const double unit = kFault == Fault::kNotRounded ? 1 + 0x1p-20 : 1;
  const auto element = [&](int value) { return from_accum<T>(static_cast<float>(value * unit)); };
  for (int i = 0; i < 16 * kDepth; ++i) a[i] = element(i * 7 % 23 - 11);
  for (int i = 0; i < 8 * kDepth; ++i) b[i] = element(i * 5 % 19 - 9);
  std::vector<float> sum(16 * 8, -1);
  Outcome outcome{launch<Kernel>(make_shape(1, 32, 16 * kDepth * sizeof(T)),
                                 {a.data(), b.data(), sum.data()}, nullptr),
                  true};
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      float expected = 0;
      for (int k = 0; k < kDepth; ++k) {
        expected += to_accum(a[row * kDepth + k]) * to_accum(b[column * kDepth + k]);
      }
      if (sum[row * 8 + column] != expected) outcome.right = false;
    }
  }
  return outcome;
}

// Four matrices of 16-bit numbers, transposed.
struct TransposeMatrices {
  struct Args {
    uint16_t* out;  // [32, 4, 2]
  };
  static constexpr const char* kName = "transpose";
  static constexpr int kMaxThreads = 32;

  static FUSEDRNN_DEV void run(const Args& args) {
    const Shared<uint16_t> rows = shared_memory<uint16_t>(0);
    for (int i = 0; i < 8; ++i) {
      rows.store(lane_idx() * 8 + i, static_cast<uint16_t>(lane_idx() * 8 + i));
    }
    sync_warp();
    uint32_t taken[4];
    ldmatrix_transposed(rows, lane_idx() * 8, taken);
    for (int m = 0; m < 4; ++m) {
      store_global(args.out + lane_idx() * 8 + 2 * m, static_cast<uint16_t>(taken[m] & 0xFFFFu));
      store_global(args.out + lane_idx() * 8 + 2 * m + 1, static_cast<uint16_t>(taken[m] >> 16));
    }
  }
};

// A block writes its numbers, and reads them again.
template <Fault kFault>
struct StoreAndLoad {
  struct Args {
    float* data;  // [threads of the grid]
    float* out;   // the same
  };
  static constexpr const char* kName = "store_and_load";
  static constexpr int kMaxThreads = 64;

  static FUSEDRNN_DEV void run(const Args& args) {
    const int64_t threads = num_threads(), idx = block_idx_x() * threads + thread_idx();
    store_global(args.data + (kFault == Fault::kTwoStores ? thread_idx() : idx),
                 static_cast<float>(idx));
    sync_block();
    int64_t from = block_idx_x() * threads + (thread_idx() + 1) % threads;
    if (kFault == Fault::kOtherBlock) from = (from + threads) % (threads * grid_dim_x());
    store_global(args.out + idx, kFault == Fault::kReadOnlyOwn ? ldg(args.data + from)
                                                               : load_global(args.data + from));
  }
};

template <Fault kFault>
Outcome store_and_load() {
  constexpr int kBlocks = 3, kThreads = 64;
  std::vector<float> data(kBlocks * kThreads, -1), out(data);
  Outcome outcome{launch<StoreAndLoad<kFault>>(make_shape(kBlocks, kThreads, 0),
                                               {data.data(), out.data()}, nullptr),
                  true};
  for (int i = 0; i < kBlocks * kThreads; ++i) {
    if (out[i] != static_cast<float>(i / kThreads * kThreads + (i + 1) % kThreads)) {
      outcome.right = false;
    }
  }
  return outcome;
}

// Each launch adds to its numbers what the launch before left in the next block's place.
template <Fault kFault>
struct Follow {
  struct Args {
    const float* added;   // [threads of the grid]
    const float* before;  // the same
    float* out;           // the same
  };
  static constexpr const char* kName = "follow";
  static constexpr int kMaxThreads = 64;

  static FUSEDRNN_DEV void run(const Args& args) {
    launch_dependents();
    const int64_t threads = num_threads() * grid_dim_x();
    const int64_t idx = block_idx_x() * num_threads() + thread_idx();
    const float added = ldg(args.added + idx);
    if (kFault == Fault::kStoreBeforeWait) store_global(args.out + idx, added);
    if (kFault != Fault::kNoLaunchWait) wait_for_launch_before();
    store_global(args.out + idx,
                 added + load_global(args.before + (idx + num_threads()) % threads));
  }
};

template <Fault kFault>
Outcome follow() {
  constexpr int kBlocks = 3, kThreads = 32, kCount = kBlocks * kThreads, kLaunches = 5;
  std::vector<std::vector<float>> values(kLaunches + 1, std::vector<float>(kCount, 0));
  std::vector<float> added(kCount), expected(kCount, 0);
  std::iota(added.begin(), added.end(), 1.0f);
  Outcome outcome{{}, true};
  for (int i = 0; i < kLaunches && outcome.status.ok; ++i) {
    LaunchShape shape = make_shape(kBlocks, kThreads, 0);
    shape.programmatic = i > 0;
    outcome.status = launch<Follow<kFault>>(
        shape, {added.data(), values[i].data(), values[i + 1].data()}, nullptr);
    std::vector<float> next(kCount);
    for (int j = 0; j < kCount; ++j) next[j] = added[j] + expected[(j + kThreads) % kCount];
    expected = next;
  }
  if (outcome.status.ok) outcome.status = cudasim::finish();
  outcome.right = values[kLaunches] == expected;
  return outcome;
}

}  // namespace

TEST(every_thread_of_every_block_runs_once) {
  LaunchShape shape = make_shape(7, 64, 0);
  shape.grid_y = 5;
  shape.grid_z = 3;
  std::vector<int> visits(7 * 5 * 3 * 64);
  const Status status = launch<Stand>(shape, {visits.data()}, nullptr);
  CHECK_THAT(status.ok, "%s", status.message);
  for (size_t i = 0; i < visits.size(); ++i) CHECK(visits[i] == 1 + static_cast<int>(i % 64));
}

TEST(values_move_and_convert_exactly) {
  std::vector<float> floats(128);
  std::vector<double> doubles(64);
  std::vector<BFloat16> bfloats(256);
  std::vector<Float16> halves_(256);
  for (size_t i = 0; i < floats.size(); ++i) floats[i] = std::ldexp(1.1f, static_cast<int>(i) - 64);
  for (size_t i = 0; i < doubles.size(); ++i) doubles[i] = std::ldexp(-1.1, static_cast<int>(i));
  for (size_t i = 0; i < bfloats.size(); ++i) {
    // Finite values only: their bits survive, those of NaN need not.
    bfloats[i].bits = static_cast<uint16_t>(i * 127);
    halves_[i].bits = static_cast<uint16_t>(i * 121);
  }
  check_conversion(floats);
  check_conversion(doubles);
  check_conversion(bfloats);
  check_conversion(halves_);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(to_accum(from_accum<BFloat16>(nan))));
  CHECK(std::isnan(to_accum(from_accum<Float16>(nan))));
  CHECK(std::isinf(to_accum(from_accum<Float16>(1e6f))));
}

TEST(impossible_launches_are_refused) {
  const auto refused = [](const LaunchShape& shape, const char* says) {
    int unused = 0;
    const Status status = launch<Stand>(shape, {&unused}, nullptr);
    CHECK_THAT(!status.ok && std::strstr(status.message, says), "%s", status.message);
  };
  refused(make_shape(1, 33, 0), "33 threads");
  refused(make_shape(1, 96, 0), "96 threads");
  refused(make_shape(6, 32, 0, 4), "clusters of 4");
  refused(make_shape(1, 32, 228 * 1024), "shared memory");
  refused(make_shape(-1, 32, 0), "grid of -1");
  LaunchShape tall = make_shape(1, 32, 0);
  tall.grid_y = 65536;
  refused(tall, "65536");
  CHECK(launch<Stand>(make_shape(0, 32, 0), {nullptr}, nullptr).ok);
}

TEST(a_seed_gives_the_same_order_again_and_another_seed_another) {
  std::set<std::string> messages;
  for (int seed = 0; seed < kSeeds; ++seed) {
    std::string message[2];
    for (std::string& text : message) {
      cudasim::set_seed(static_cast<uint64_t>(seed));
      text = rotate<Fault::kNoBarrierBeforeWrite>(3, 64, 4).status.message;
    }
    CHECK(message[0] == message[1]);
    messages.insert(message[0]);
  }
  CHECK_THAT(messages.size() * 2 > static_cast<size_t>(kSeeds), "%zu", messages.size());
}

TEST(primitives_give_plain_results) {
  expect_right("block of 32", [] { return rotate<Fault::kNone>(5, 32, 3); });
  expect_right("block of 256", [] { return rotate<Fault::kNone>(2, 256, 3); });
  expect_right("warp, float", [] { return warp_sum<float, Fault::kNone>(); });
  expect_right("warp, double", [] { return warp_sum<double, Fault::kNone>(); });
  expect_right("warp, int", [] { return warp_sum<int, Fault::kNone>(); });
  expect_right("named barriers", [] { return halves<Fault::kNone>(); });
  expect_right("mbarriers of a block", [] { return pipeline<Fault::kNone>(); });
  expect_right("cluster of 1", [] { return gather<Fault::kNone>(1, 64, 5, 3); });
  expect_right("cluster of 4", [] { return gather<Fault::kNone>(4, 32, 5, 2); });
  expect_right("cluster of 8", [] { return gather<Fault::kNone>(8, 32, 4); });
  expect_right("polling", poll<Fault::kNone>);
  expect_right("polling, more blocks", poll<Fault::kNone, 9>);
}

TEST(faults_of_block_barriers_are_found) {
  expect_found("no barrier between write and read", 1, "",
               [] { return rotate<Fault::kNoBarrierBeforeRead>(2, 64, 4); });
  expect_found("no barrier between read and write", 1, "races",
               [] { return rotate<Fault::kNoBarrierBeforeWrite>(2, 64, 4); });
  expect_found("a barrier that one thread passes by", 1, "",
               [] { return rotate<Fault::kBarrierInBranch>(2, 64, 4); });
  expect_found("named barrier, count too small", 1, "", halves<Fault::kCountTooSmall>);
  expect_found("named barrier, count too large", 1, "halves", halves<Fault::kCountTooLarge>);
  expect_found("named barrier, two counts", 1, "divergence", halves<Fault::kTwoCounts>);
}

TEST(faults_of_shared_memory_are_found) {
  expect_found("overrun", 1, "out of bounds", [] { return rotate<Fault::kOverrun>(2, 64, 4); });
  expect_found("underrun", 1, "out of bounds", [] { return rotate<Fault::kUnderrun>(2, 64, 4); });
  expect_found("uninitialised", 1, "uninitialised",
               [] { return rotate<Fault::kUninitialised>(2, 64, 4); });
  expect_found("misaligned", 1, "misaligned", [] { return rotate<Fault::kMisaligned>(2, 64, 4); });
}

TEST(faults_of_warps_are_found) {
  expect_found("no warp barrier", 1, "", warp_sum<float, Fault::kNoWarpBarrier>);
  expect_found("two masks in one shuffle", 1, "divergence", warp_sum<float, Fault::kTwoMasks>);
  expect_found("a lane ended before a shuffle", 1, "divergence", warp_sum<float, Fault::kLaneGone>);
}

TEST(faults_of_mbarriers_are_found) {
  expect_found("no wait", 1, "", pipeline<Fault::kNoWait>);
  expect_found("wrong parity", 1, "deadlock", pipeline<Fault::kWrongParity>);
  expect_found("an arrival too many", 1, "", pipeline<Fault::kSecondArrival>);
  expect_found("an arrival missing", 1, "deadlock", pipeline<Fault::kMissingArrival>);
}

TEST(faults_of_clusters_are_found) {
  expect_found("no wait for the bytes", 1, "", [] { return gather<Fault::kNoWait>(4, 32, 4); });
  expect_found("expect_tx 16 bytes short", 1, "",
               [] { return gather<Fault::kShortExpect>(4, 32, 4); });
  expect_found("expect_tx 16 bytes long", 1, "deadlock",
               [] { return gather<Fault::kLongExpect>(4, 32, 4); });
  expect_found("one buffer", 1, "races", [] { return gather<Fault::kOneBuffer>(4, 32, 4); });
  expect_found("no cluster barrier after init", 1, "",
               [] { return gather<Fault::kNoClusterBarrier>(4, 32, 4); });
  expect_found("no fence after init", 1, "no fenced mbarrier",
               [] { return gather<Fault::kNoFence>(4, 32, 4); });
  expect_found("no init", 1, "uninitialised", [] { return gather<Fault::kNoInit>(4, 32, 4); });
  expect_found("misaligned packets", 1, "misaligned",
               [] { return gather<Fault::kMisalignedStore>(4, 32, 4); });
  expect_found("a block ends too early", 0.9, "block",
               [] { return gather<Fault::kEarlyEnd>(4, 32, 4); });
}

TEST(faults_of_polling_are_found) {
  expect_found("no tag", 0.9, "", poll<Fault::kNoTag>);
  expect_found("one tag trusted for four words", 0.5, "", poll<Fault::kOneTagOfFour>);
  expect_found("no barrier before the packets' place is taken", 0.25, "deadlock",
               poll<Fault::kNoBarrierBeforeWrite>);
  expect_found("a packet is never published", 1, "deadlock", poll<Fault::kNotPublished>);
  expect_found("a grid that need not be resident", 1, "deadlock", poll<Fault::kNotResident, 6>);
}

TEST(mma_multiplies_as_plain_loops_do) {
  expect_right("bfloat16", multiply<BFloat16, Fault::kNone>);
  expect_right("float16", multiply<Float16, Fault::kNone>);
  expect_right("tf32", multiply<float, Fault::kNone>);
}

TEST(faults_of_mma_are_found) {
  expect_found("an operand that is not rounded to TF32", 1, "not rounded",
               multiply<float, Fault::kNotRounded>);
  expect_found("lanes that are elsewhere", 1, "divergence",
               multiply<BFloat16, Fault::kOneInstructionOfTwo>);
}

TEST(round_to_tf32_takes_the_nearest) {
  const auto rounded = [](float value) {
    return bit_cast<float>(round_to_tf32(bit_cast<uint32_t>(value)));
  };
  CHECK(rounded(1.0f) == 1.0f);
  CHECK(rounded(1 + 0x1p-11f) == 1 + 0x1p-10f);
  CHECK(rounded(-1 - 0x1p-11f) == -1 - 0x1p-10f);
  CHECK(rounded(1 + 0x1p-12f) == 1.0f);
  CHECK(std::isinf(rounded(std::numeric_limits<float>::infinity())));
  CHECK(std::isnan(rounded(std::numeric_limits<float>::quiet_NaN())));
}

TEST(ldmatrix_transposes_matrices) {
  std::vector<uint16_t> out(32 * 8, 0);
  CHECK(launch<TransposeMatrices>(make_shape(1, 32, 512), {out.data()}, nullptr).ok);
  for (int lane = 0; lane < 32; ++lane) {
    for (int m = 0; m < 4; ++m) {
      for (int i = 0; i < 2; ++i) {
        CHECK(out[lane * 8 + 2 * m + i] == (m * 8 + lane % 4 * 2 + i) * 8 + lane / 4);
      }
    }
  }
}

TEST(a_block_sees_its_own_stores) { expect_right("store and load", store_and_load<Fault::kNone>); }

TEST(faults_of_global_memory_are_found) {
  expect_found("a read-only load of an own store", 1, "read-only load",
               store_and_load<Fault::kReadOnlyOwn>);
  expect_found("a load of another block's store", 0.9, "plain load",
               store_and_load<Fault::kOtherBlock>);
  expect_found("two blocks store one place", 1, "store of what block",
               store_and_load<Fault::kTwoStores>);
}

TEST(launches_that_overlap_see_what_the_one_before_left) {
  expect_right("follow", follow<Fault::kNone>);
}

TEST(faults_of_launches_that_overlap_are_found) {
  expect_found("no wait for the launch before", 0.9, "before wait_for_launch_before",
               follow<Fault::kNoLaunchWait>);
  expect_found("a store before the wait", 0.9, "before wait_for_launch_before",
               follow<Fault::kStoreBeforeWait>);
}

CHECK_MAIN()
