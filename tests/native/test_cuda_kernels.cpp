// The CUDA kernels of a layer against plain double loops: every cell, storage type, schedule and
// form, one and both directions, every kind of batch, on sizes around each tile. Compiled for the
// simulator, under many scheduling seeds, and for a GPU: see cuda_layer_case.h.
//
// The simulator runs a case under FUSEDRNN_SIM_SEEDS seeds (4 otherwise), in the test of options
// under a quarter of them, in most others under one, each under others than the case before. From
// kManySeeds on every cell, storage type and schedule has all of them at sizes around the tiles.
#include <cstdio>
#include <cstring>

#include "check.h"
#include "cuda_layer_case.h"

using namespace fusedrnn;
using namespace oracle;

namespace {

const int kRepeats = num_repeats();
constexpr int kManySeeds = 48;

// Cases whose plan needs more shared memory than the device has.
int left_out = 0;

// Whether a case is right in so many runs.
bool is_right(const CudaCase& k, int repeats) {
  if (!fits(k)) {
    ++left_out;
    return true;
  }
  Problems problems(k);
  for (int i = 0; i < repeats; ++i) {
    const Result result = problems.run(right_kernels(k));
    if (result.is_right) continue;
    std::printf("%s: %s: %s\n", k.text().c_str(), result.run.c_str(), result.status.message);
    return false;
  }
  return true;
}
bool is_right(const CudaCase& k) {
#if defined(__SANITIZE_ADDRESS__)
  static int idx = 0;  // every other case: all of them take a quarter of an hour
  if (++idx % 2 == 0) return true;
#endif
  return is_right(k, (kRepeats + 3) / 4);
}

constexpr Way kWays[] = {
    {Schedule::kPerStep, StepForm::kProduct, 0, 0},
    {Schedule::kPerStep, StepForm::kFused, 0, 0},
    {Schedule::kPerStep, StepForm::kFused, 0, 0, StepMath::kTensor, 16},
    {Schedule::kPerStep, StepForm::kFused, 0, 0, StepMath::kTensor, 32},
    {Schedule::kSingleBlock, StepForm::kProduct, 1, 1},
    {Schedule::kSingleBlock, StepForm::kProduct, 2, 2},
    {Schedule::kSingleBlock, StepForm::kProduct, 4, 1},
};

bool is_single_block(const CudaCase& k) { return k.schedule == Schedule::kSingleBlock; }

// Body gets every cell with every way to run it; those that can be also with projection, where that
// is possible. Ways with more rows a thread than a storage type allows are left out by set_dtype.
template <class Body>
void for_each_cell_and_way(const Body& body) {
  for (const CellInfo& info : kCells) {
    const CellKind cell = info.kind;
    for (int projected = 0; projected <= (info.projects ? 1 : 0); ++projected) {
      for (const Way& way : kWays) {
        CudaCase k(way);
        k.cell = cell;
        k.proj_size = projected ? 4 : 0;
        if (projected && (is_single_block(k) || k.form == StepForm::kFused)) continue;
        body(k);
      }
    }
  }
}

bool set_dtype(DType dtype, CudaCase* k) {
  k->dtype = dtype;
  if (k->math == StepMath::kTensor && dtype == DType::kFloat64) return false;
  return k->thread_rows <= max_thread_rows(dtype);
}

bool has_same_bits(const Result& a, const Result& b) {
  bool same = a.buffers.size() == b.buffers.size();
  for (size_t i = 0; same && i < a.buffers.size(); ++i) same = a.buffers[i].same_bits(b.buffers[i]);
  return same;
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
    const bool projected = k.proj_size > 0;
    k.seq_len = 3;
    k.chunk_steps = 2;
    for (int64_t hidden_size : {1, 8, 31, 32, 33, 40, 67, 72}) {
      for (int64_t batch_size : {1, 2, 7, 8, 9, 17}) {
        k.hidden_size = hidden_size;
        k.batch_size = batch_size;
        if (is_single_block(k) && batch_size > 9) continue;
        k.packed = batch_size > 2 && !is_single_block(k);
        k.directions = 1 + count % 2;
        k.proj_size = projected && hidden_size > 1 ? 1 + hidden_size / 2 : 0;
        if (set_dtype(kAllDTypes[count++ % 4], &k)) CHECK(is_right(k, 1));
      }
    }
  });
}

TEST(cuda_layer_matches_plain_loops_under_every_seed) {
  if (kRepeats < kManySeeds) return;
  for_each_cell_and_way([](CudaCase k) {
    const bool projected = k.proj_size > 0;
    k.seq_len = 3;
    k.chunk_steps = 2;
    for (DType dtype : kAllDTypes) {
      if (!set_dtype(dtype, &k)) continue;
      for (int64_t hidden_size : {1, 31, 33, 40, 67}) {
        for (int64_t batch_size : {1, 7, 9, 17}) {
          if (is_single_block(k) && batch_size > 9) continue;
          k.hidden_size = hidden_size;
          k.batch_size = batch_size;
          k.packed = batch_size == 9 && !is_single_block(k);
          k.direction = batch_size == 7 ? Direction::kReverse : Direction::kForward;
          k.proj_size = projected && hidden_size > 1 ? 1 + hidden_size / 2 : 0;
          CHECK(is_right(k, kRepeats));
        }
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

TEST(cuda_resets_replace_what_enters_a_step_and_keep_its_gradient) {
  int count = 0;
  for_each_cell_and_way([&](CudaCase k) {
    k.reset = true;
    k.seq_len = 5;
    k.chunk_steps = 2;
    for (int64_t hidden_size : {1, 33, 24}) {
      k.hidden_size = hidden_size;
      if (k.proj_size > 0) k.proj_size = 1 + hidden_size / 2;
      k.batch_size = is_single_block(k) ? 5 : 9;
      for_each_direction(k, [&](CudaCase one) {
        one.packed = !is_single_block(one) && ++count % 2 == 0;
        one.states = one.packed || count % 3 != 0;
        one.steps_c = count % 4 < 2;
        if (set_dtype(kAllDTypes[count++ % 4], &one)) CHECK(is_right(one, 1));
      });
    }
  });
}

TEST(cuda_rows_of_lengths_end_early_whatever_their_padding_holds) {
  int count = 0;
  for_each_cell_and_way([&](CudaCase k) {
    k.lengths = true;
    for (int64_t seq_len : {1, 6}) {
      for (int64_t batch_size : {3, 9, 17}) {
        k.seq_len = seq_len;
        k.batch_size = batch_size;
        k.hidden_size = batch_size == 9 ? 33 : batch_size == 17 ? 8 : 5;
        for_each_direction(k, [&](CudaCase one) {
          one.chunk_steps = 2 + count % 3 * 2;
          one.states = count % 4 != 0;
          one.reset = one.steps_c = one.grad_gates = count % 2;
          one.accumulate = count % 5 == 0;
          if (set_dtype(kAllDTypes[count++ % 4], &one)) CHECK(is_right(one, 1));
        });
      }
    }
  });
}

TEST(cuda_recomputation_gives_the_same_bits) {
  int count = 0;
  for_each_cell_and_way([&](CudaCase k) {
    k.seq_len = 9;
    k.batch_size = 5;
    k.wants_bits = true;
    for_each_direction(k, [&](CudaCase one) {
      one.chunk_steps = count % 2 ? 4 : 100;
      one.packed = !is_single_block(one) && count % 3 == 0;
      one.lengths = !one.packed && count % 3 == 1;
      one.reset = count % 4 < 2;
      if (!set_dtype(kAllDTypes[count++ % 4], &one)) return;
      const Result kept = Problems(one).run(right_kernels(one));
      CHECK(kept.is_right);
      for (one.recompute = 1; one.recompute <= 17; one.recompute = 2 * one.recompute + 1) {
        const Result again = Problems(one).run(right_kernels(one));
        CHECK(again.is_right);
        CHECK(has_same_bits(kept, again));
      }
    });
  });
}

TEST(cuda_c_of_every_step_is_given_and_has_a_gradient) {
  for_each_cell_and_way([](CudaCase k) {
    if (!k.has_c()) return;
    k.steps_c = true;
    k.packed = !is_single_block(k);
    for_each_direction(k, [](const CudaCase& one) { CHECK(is_right(one, 1)); });
  });
}

TEST(cuda_gradients_may_be_absent_or_accumulated) {
  for_each_cell_and_way([](CudaCase k) {
    k.packed = !is_single_block(k);
    k.reset = k.steps_c = k.grad_gates = true;
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
    k.hidden_size = k.math == StepMath::kTensor ? 16 : 7;
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
  k.cell = kind_of<RnnTanh>;
  k.schedule = Schedule::kSingleBlock;
  k.seq_len = 65537;
  k.chunk_steps = 65536;
  k.batch_size = k.input_size = k.hidden_size = 1;
  k.training = false;
  CHECK(is_right(k, 1));
}

TEST(cuda_same_inputs_give_same_bits_in_every_order_of_threads) {
  for_each_cell_and_way([](CudaCase k) {
    k.hidden_size = k.math == StepMath::kTensor ? 40 : 41;
    k.batch_size = 9;
    k.seq_len = 3;
    k.chunk_steps = 2;
    k.directions = 2;
    k.proj_size = k.proj_size > 0 ? 23 : 0;
    k.packed = !is_single_block(k);
    k.wants_bits = true;
    for (DType dtype : kAllDTypes) {
      if (!set_dtype(dtype, &k)) continue;
      if (!fits(k)) {
        ++left_out;
        continue;
      }
      Problems problems(k);
      const Result first = problems.run(right_kernels(k));
      CHECK(first.is_right);
      for (int i = 1; i < kRepeats && first.is_right; ++i) {
        const Result other = problems.run(right_kernels(k));
        CHECK(other.is_right);
        CHECK(has_same_bits(first, other));
      }
    }
  });
}

TEST(cuda_plan_that_no_kernel_has_is_an_error) {
  CudaCase k;
  k.schedule = Schedule::kSingleBlock;
  k.thread_rows = 3;
  const Result result = Problems(k).run(right_kernels(k));
  CHECK(!result.status.ok);
  CHECK(std::strstr(result.status.message, "3 rows a thread") != nullptr);
}

int main(int argc, char** argv) {
  if (const Status status = open_device(); !status.ok) {
    std::fprintf(stderr, "%s\n", status.message);
    return 1;
  }
  const int failed = check::run(argc, argv);
  std::printf("%d runs of a layer's kernels %s\n", runs, device_text().c_str());
  if (left_out > 0) {
    std::printf("%d cases left out: they need more than the %lld bytes of shared memory there\n",
                left_out, static_cast<long long>(max_smem_bytes()));
  }
  return failed;
}
