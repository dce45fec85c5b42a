// The CUDA kernels of a layer, in the simulator, against plain double loops: every cell, storage
// type, schedule and form, one and both directions, every kind of batch, on sizes around each
// tile; then under many scheduling seeds, and with planted faults that must be found.
//
// FUSEDRNN_SIM_SEEDS is the number of seeds (4 otherwise). The tests of options and sizes run a
// case under a quarter of them, each under others than the case before.
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "cuda/schedules/launchers.cuh"
#include "cuda_layer_case.h"
#include "seeds.h"

using namespace fusedrnn;
using namespace oracle;

namespace {

const int kSeeds = cudasim::num_seeds(4);

uint64_t next_seed = 1;

Kernels right_kernels(const CudaCase& k) {
  const CudaKernels kernels = cuda_kernels(k.cell, k.dtype);
  return {kernels, kernels};
}

// Whether a case is right under so many seeds.
bool is_right(const CudaCase& k, int seeds) {
  Problems problems(k);
  for (int i = 0; i < seeds; ++i) {
    const uint64_t seed = next_seed++;
    const Result result = problems.run(right_kernels(k), seed);
    if (result.is_right) continue;
    std::printf("%s: seed %d: %s\n", k.text().c_str(), int(seed), result.status.message);
    return false;
  }
  return true;
}
bool is_right(const CudaCase& k) { return is_right(k, (kSeeds + 3) / 4); }

struct Way {
  Schedule schedule;
  StepForm form;
  int thread_rows, row_groups;
};
constexpr Way kWays[] = {
    {Schedule::kPerStep, StepForm::kProduct, 0, 0},
    {Schedule::kPerStep, StepForm::kFused, 0, 0},
    {Schedule::kSingleBlock, StepForm::kProduct, 1, 1},
    {Schedule::kSingleBlock, StepForm::kProduct, 2, 2},
    {Schedule::kSingleBlock, StepForm::kProduct, 4, 1},
};

bool is_single_block(const CudaCase& k) { return k.schedule == Schedule::kSingleBlock; }

// Body gets every cell with every way to run it; LSTM also with projection, where that is
// possible. Ways with more rows a thread than a storage type allows are left out by set_dtype.
template <class Body>
void for_each_cell_and_way(const Body& body) {
  for (CellKind cell : kAllCells) {
    for (int projected = 0; projected <= (cell == CellKind::kLstm ? 1 : 0); ++projected) {
      for (const Way& way : kWays) {
        CudaCase k;
        k.cell = cell;
        k.proj_size = projected ? 4 : 0;
        k.schedule = way.schedule;
        k.form = way.form;
        k.thread_rows = way.thread_rows;
        k.row_groups = way.row_groups;
        if (projected && (is_single_block(k) || k.form == StepForm::kFused)) continue;
        body(k);
      }
    }
  }
}

bool set_dtype(DType dtype, CudaCase* k) {
  k->dtype = dtype;
  return k->thread_rows <= max_thread_rows(dtype);
}

// One direction of either kind, then both.
template <class Body>
void for_each_direction(CudaCase k, const Body& body) {
  for (Direction direction : kDirections) {
    k.direction = direction;
    body(k);
  }
  k.direction = Direction::kForward;
  k.directions = 2;
  body(k);
}

}  // namespace

TEST(cuda_layer_matches_plain_loops_for_every_dtype_direction_and_option) {
  for_each_cell_and_way([](CudaCase with_way) {
    for (DType dtype : kAllDTypes) {
      if (!set_dtype(dtype, &with_way)) continue;
      for_each_direction(with_way, [](CudaCase k) {
        // Options in pairs: packed with or without each other one.
        for (int bits : {0, 1, 6, 7, 10, 11, 12, 13, 14, 15}) {
          k.packed = bits & 1;
          k.bias = bits & 2;
          k.states = bits & 4;
          k.training = bits & 8;
          if (k.packed && is_single_block(k)) continue;
          CHECK(is_right(k));
        }
      });
    }
  });
}

TEST(cuda_layer_matches_plain_loops_for_sizes_around_the_tiles) {
  int count = 0;
  for_each_cell_and_way([&](CudaCase k) {
    k.seq_len = 3;
    k.chunk_steps = 2;
    for (int64_t hidden_size : {1, 31, 32, 33, 67}) {
      for (int64_t batch_size : {1, 2, 7, 8, 9, 17}) {
        k.hidden_size = hidden_size;
        k.batch_size = batch_size;
        if (is_single_block(k) && batch_size > 9) continue;
        k.packed = batch_size > 2 && !is_single_block(k);
        k.directions = 1 + count % 2;
        k.proj_size = k.proj_size > 0 && hidden_size > 1 ? 1 + hidden_size / 2 : 0;
        if (set_dtype(kAllDTypes[count++ % 4], &k)) CHECK(is_right(k, 1));
      }
    }
  });
}

TEST(cuda_layer_matches_plain_loops_for_lengths_and_chunks) {
  for_each_cell_and_way([](CudaCase k) {
    for (int64_t seq_len : {1, 2, 5}) {
      for (int64_t chunk_steps : {1, 2, 100}) {
        k.seq_len = seq_len;
        k.chunk_steps = chunk_steps;
        k.packed = !is_single_block(k) && seq_len == 5;
        k.batch_size = 5;
        k.dtype = chunk_steps == 2 ? DType::kBFloat16 : DType::kFloat32;
        for_each_direction(k, [](const CudaCase& one) { CHECK(is_right(one, 1)); });
      }
    }
  });
}

TEST(cuda_gradients_may_be_absent_or_accumulated) {
  for_each_cell_and_way([](CudaCase k) {
    k.packed = !is_single_block(k);
    for_each_direction(k, [](CudaCase one) {
      one.dtype = one.directions == 2 ? DType::kBFloat16 : DType::kFloat32;
      for (one.absent_grad = -1; one.absent_grad < kGradEnd; ++one.absent_grad) {
        one.accumulate = one.absent_grad == -1;
        CHECK(is_right(one, 1));
      }
    });
  });
}

TEST(cuda_nan_goes_on_in_time_and_stays_in_its_sequence) {
  for_each_cell_and_way([](CudaCase k) {
    k.batch_size = 7;
    k.nan_row = k.batch_size + 2;
    k.training = false;
    for (DType dtype : kAllDTypes) {
      if (set_dtype(dtype, &k)) CHECK(is_right(k, 1));
    }
  });
}

TEST(cuda_empty_batch_and_empty_input_work) {
  for_each_cell_and_way([](CudaCase k) {
    for (k.directions = 1; k.directions <= 2; ++k.directions) {
      k.input_size = 0;
      k.batch_size = 3;
      CHECK(is_right(k, 1));
      k.batch_size = 0;
      CHECK(is_right(k, 1));
      k.input_size = 3;
      CHECK(is_right(k, 1));
    }
  });
}

TEST(cuda_sequence_may_have_more_steps_than_a_grid_has_rows) {
  CudaCase k;
  k.cell = CellKind::kRnnTanh;
  k.schedule = Schedule::kSingleBlock;
  k.seq_len = 65537;
  k.chunk_steps = 65536;
  k.batch_size = k.input_size = k.hidden_size = 1;
  k.training = false;
  CHECK(is_right(k, 1));
}

TEST(cuda_same_inputs_give_same_bits_under_every_schedule_of_threads) {
  for_each_cell_and_way([](CudaCase k) {
    k.hidden_size = 41;
    k.batch_size = 9;
    k.seq_len = 3;
    k.chunk_steps = 2;
    k.directions = 2;
    k.proj_size = k.proj_size > 0 ? 23 : 0;
    k.packed = !is_single_block(k);
    k.wants_bits = true;
    for (DType dtype : kAllDTypes) {
      if (!set_dtype(dtype, &k)) continue;
      Problems problems(k);
      const Result first = problems.run(right_kernels(k), next_seed++);
      CHECK(first.is_right);
      for (int i = 1; i < kSeeds && first.is_right; ++i) {
        const Result other = problems.run(right_kernels(k), next_seed++);
        CHECK(other.is_right && other.buffers.size() == first.buffers.size());
        for (size_t b = 0; other.is_right && b < first.buffers.size(); ++b) {
          CHECK(first.buffers[b].same_bits(other.buffers[b]));
        }
      }
    }
  });
}

namespace {

// The barriers of a kernel but one.
template <int kRemoved>
struct BarriersBut {
  template <int kBarrier>
  static void wait() {
    if constexpr (kBarrier != kRemoved) sync_block();
  }
};

// How many of the seeds see a fault in the kernels of one pass: an error, or a wrong number.
int seeds_that_see(const CudaCase& k, Pass pass, const CudaCellKernels& faulty) {
  Kernels kernels = right_kernels(k);
  (pass == Pass::kForward ? kernels.forward : kernels.backward).cell = faulty;
  Problems problems(k);
  int seen = 0;
  for (int i = 0; i < kSeeds; ++i) {
    seen += problems.run(kernels, next_seed++).is_right ? 0 : 1;
  }
  return seen;
}

void expect_seen(const char* fault, const CudaCase& k, Pass pass, int seen) {
  std::printf("planted in %s %s: %s, seen by %d of %d seeds\n", k.way().c_str(),
              pass == Pass::kForward ? "forward" : "backward", fault, seen, kSeeds);
  CHECK(2 * seen > kSeeds);
}

// Several warps that need each other's units, and more than one tile of the product.
CudaCase fault_case(const Way& way) {
  CudaCase k;
  k.schedule = way.schedule;
  k.form = way.form;
  k.thread_rows = way.thread_rows;
  k.row_groups = way.row_groups;
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

TEST(cuda_plan_that_no_kernel_has_is_an_error) {
  CudaCase k;
  k.schedule = Schedule::kSingleBlock;
  k.thread_rows = 3;
  const Result result = Problems(k).run(right_kernels(k), next_seed++);
  CHECK(!result.status.ok);
  CHECK(std::strstr(result.status.message, "3 rows a thread") != nullptr);
}

int main(int argc, char** argv) {
  const int failed = check::run(argc, argv);
  std::printf("%d runs of a layer's kernels in the simulator\n", runs);
  return failed;
}
