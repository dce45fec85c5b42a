// Faults planted in the CUDA kernels of a layer, which the simulator must find: a barrier taken
// away, too little shared memory. A part of test_cuda_kernels there.
#include <cstdio>

#include "check.h"
#include "cuda/schedules/launchers.cuh"
#include "cuda_layer_case.h"

using namespace fusedrnn;
using namespace oracle;

namespace {

const int kSeeds = num_repeats();

// The barriers of a kernel but one, or but the wait for the launch before.
constexpr int kLaunch = -1;
template <int kRemoved>
struct BarriersBut {
  template <int kBarrier>
  static void wait() {
    if constexpr (kBarrier != kRemoved) sync_block();
  }
  static void wait_for_launch() {
    if constexpr (kRemoved != kLaunch) wait_for_launch_before();
  }
};

// How many of the seeds see a fault in the kernels of one pass: an error, or a wrong number.
int seeds_that_see(const CudaCase& k, Pass pass, const CudaCellKernels& faulty) {
  Kernels kernels = right_kernels(k);
  (pass == Pass::kForward ? kernels.forward : kernels.backward).cell = faulty;
  Problems problems(k);
  int seen = 0;
  for (int i = 0; i < kSeeds; ++i) seen += problems.run(kernels).is_right ? 0 : 1;
  return seen;
}

void expect_seen(const char* fault, const CudaCase& k, Pass pass, int seen) {
  std::printf("planted in %s %s: %s, seen by %d of %d seeds\n", k.way().c_str(),
              pass == Pass::kForward ? "forward" : "backward", fault, seen, kSeeds);
  CHECK(2 * seen > kSeeds);
}

// Several warps that need each other's units, and more than one tile of the product.
CudaCase fault_case(const Way& way) {
  CudaCase k(way);
  k.hidden_size = 40;
  k.batch_size = 2;
  k.seq_len = k.chunk_steps = 3;
  return k;
}

template <int kBarrier>
void remove_barrier(const Way& way, const char* what) {
  const CudaCase k = fault_case(way);
  const CudaCellKernels faulty = CellLaunchers<Lstm, float, BarriersBut<kBarrier>>::table();
  for (Pass pass : {Pass::kForward, Pass::kBackward}) {
    expect_seen(what, k, pass, seeds_that_see(k, pass, faulty));
  }
}

}  // namespace

TEST(cuda_faults_planted_in_the_schedules_are_found) {
  const Way fused{Schedule::kPerStep, StepForm::kFused, 0, 0};
  remove_barrier<0>(fused, "no barrier before the next tile");
  remove_barrier<1>(fused, "no barrier after a tile");
  remove_barrier<2>(fused, "no barrier before the sums");
  remove_barrier<3>(fused, "no barrier after the sums");
  remove_barrier<kLaunch>(fused, "no wait for the step before");
  const Way tensor{Schedule::kPerStep, StepForm::kFused, 0, 0, StepMath::kTensor, 16};
  remove_barrier<0>(tensor, "no barrier after the sums");
  remove_barrier<kLaunch>(tensor, "no wait for the step before");
  const Way block{Schedule::kSingleBlock, StepForm::kProduct, 2, 1};
  remove_barrier<0>(block, "no barrier after the weights");
  remove_barrier<1>(block, "no barrier after a step");

  for (Pass pass : {Pass::kForward, Pass::kBackward}) {
    CudaCase k = fault_case(block);
    k.missing_smem_bytes[static_cast<int>(pass)] = 16;
    expect_seen("16 bytes of shared memory too few", k, pass,
                seeds_that_see(k, pass, right_kernels(k).forward.cell));
  }
}
