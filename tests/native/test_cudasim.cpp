// The simulator's primitives against plain results, and planted faults that it must find.
//
// FUSEDRNN_SIM_SEEDS is the number of scheduling seeds each kernel runs under.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "check.h"
#include "cuda/device/launch.cuh"
#include "cuda/device/memory.cuh"
#include "cuda/device/shared.cuh"
#include "cuda/device/thread.cuh"

using namespace fusedrnn;

namespace {

int num_seeds() {
  const char* text = std::getenv("FUSEDRNN_SIM_SEEDS");
  return text ? std::atoi(text) : 12;
}

// Each thread gives its value to the next one of the block, `rounds` times, through one word a
// thread; kSync leaves out one of the two barriers of a round.
enum class Fault { kNone, kBeforeRead, kBeforeWrite };

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
    const int t = thread_idx();
    float value = static_cast<float>(t);
    for (int round = 0; round < args.rounds; ++round) {
      word.store(t, value);
      if (kFault != Fault::kBeforeRead) sync_block();
      value = word.load((t + 1) % num_threads());
      if (kFault != Fault::kBeforeWrite) sync_block();
    }
    args.out[block_idx_x() * num_threads() + t] = value;
  }
};

template <Fault kFault>
Status rotate(uint64_t seed, int blocks, int threads, int rounds, bool* right) {
  cudasim::set_seed(seed);
  std::vector<float> out(static_cast<size_t>(blocks) * threads, -1);
  LaunchShape shape;
  shape.grid_x = blocks;
  shape.threads = threads;
  shape.smem_bytes = threads * 4;
  const Status status = launch<Rotate<kFault>>(shape, {out.data(), rounds}, nullptr);
  *right = true;
  for (int i = 0; i < blocks * threads; ++i) {
    *right = *right && out[i] == static_cast<float>((i % threads + rounds) % threads);
  }
  return status;
}

}  // namespace

TEST(block_barrier_orders_shared_memory) {
  for (int seed = 0; seed < num_seeds(); ++seed) {
    for (int threads : {32, 64, 256}) {
      bool right = false;
      const Status status = rotate<Fault::kNone>(seed, 5, threads, 4, &right);
      CHECK_THAT(status.ok, "seed %d: %s", seed, status.message);
      CHECK_THAT(right, "seed %d, %d threads", seed, threads);
    }
  }
}

TEST(removed_block_barrier_is_found) {
  int found = 0;
  for (int seed = 0; seed < num_seeds(); ++seed) {
    bool right;
    const Status a = rotate<Fault::kBeforeRead>(seed, 2, 64, 4, &right);
    const Status b = rotate<Fault::kBeforeWrite>(seed, 2, 64, 4, &right);
    found += !a.ok && !b.ok;
    if (seed < 3) std::printf("%s\n%s\n", a.message, b.message);
  }
  CHECK(found == num_seeds());
}

CHECK_MAIN()
