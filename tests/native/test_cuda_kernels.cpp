// The CUDA kernels of a layer, in the simulator, against plain double loops: every cell, storage
// type, schedule and form, one and both directions, every kind of batch, on sizes around each
// tile; then under many scheduling seeds, and with planted faults that must be found.
//
// FUSEDRNN_SIM_SEEDS is the number of seeds (4 otherwise). The tests of options and sizes run a
// case under a quarter of them, each under others than the case before.
#include <array>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "check.h"
#include "cuda/launch.h"
#include "cuda/layer.h"
#include "cuda/schedules/launchers.cuh"
#include "layer_oracle.h"
#include "scheduler.h"
#include "seeds.h"

using namespace fusedrnn;
using namespace oracle;

namespace {

const int kSeeds = cudasim::num_seeds(4);

// Runs of a kernel's whole layer, one case under one seed each.
int runs = 0;
uint64_t next_seed = 1;

struct CudaCase : LayerCase {
  Schedule schedule = Schedule::kPerStep;
  StepForm form = StepForm::kProduct;
  int thread_rows = 1, row_groups = 1;  // single_block
  int directions = 1;                   // both: of `direction` and the other one
  int64_t missing_smem_bytes[2] = {};   // by Pass: a fault
  bool wants_bits = false;

  std::string way() const override {
    std::string text = directions == 2 ? "and back " : "";
    if (schedule == Schedule::kSingleBlock) {
      return text + "single_block " + std::to_string(thread_rows) + "x" +
             std::to_string(row_groups);
    }
    return text + (form == StepForm::kFused ? "per_step/fused" : "per_step/product");
  }

  CudaPlan plan(Pass pass) const {
    CudaPlan plan{};
    plan.schedule = schedule;
    plan.form = form;
    plan.chunk_steps = chunk_steps;
    if (schedule != Schedule::kSingleBlock) return plan;
    plan.thread_rows = thread_rows;
    plan.unit_threads = static_cast<int>((hidden_size + 31) / 32 * 32);
    plan.threads = plan.unit_threads * row_groups;
    plan.batch_tile = thread_rows * row_groups;
    Problem problem{};
    problem.cell = cell;
    problem.dtype = dtype;
    problem.hidden_size = hidden_size;
    plan.smem_bytes = single_block_smem_bytes(problem, pass, plan.batch_tile) -
                      missing_smem_bytes[static_cast<int>(pass)];
    return plan;
  }
};

// Products by plain loops; scratch of NaN in pieces of their own.
class SimRuntime : public CudaRuntime {
 public:
  Status gemm(const CudaProduct& product) override {
    const CudaProduct& p = product;
    const bool to_accum = p.out != p.in;
    switch (p.in) {
      case DType::kFloat32:
        run<float, float>(p);
        break;
      case DType::kFloat64:
        run<double, double>(p);
        break;
      case DType::kBFloat16:
        to_accum ? run<BFloat16, float>(p) : run<BFloat16, BFloat16>(p);
        break;
      case DType::kFloat16:
        to_accum ? run<Float16, float>(p) : run<Float16, Float16>(p);
        break;
    }
    return {};
  }

  void* scratch(size_t bytes) override {
    pieces_.emplace_back(DType::kFloat32, static_cast<int64_t>((bytes + 3) / 4));
    return pieces_.back().data();
  }

  void* stream() override { return nullptr; }

 private:
  template <class In, class Out>
  static void run(const CudaProduct& p) {
    multiply<In, Out>(p.trans_a, p.trans_b, p.m, p.n, p.k, p.a, p.lda, p.b, p.ldb, p.beta, p.c,
                      p.ldc);
  }

  std::vector<Buffer> pieces_;
};

// The kernels of either pass; a planted fault is in one of them.
struct Kernels {
  CudaKernels forward, backward;
};

// Everything that one run of a case writes.
struct Result {
  Status status;
  std::vector<Buffer> buffers;
  bool is_right = false;
};

// A direction's inputs, gradients, what they should come to, and room for what they do.
struct Side {
  Side(const CudaCase& k, const LayerCase& of_side, Numbers drawn)
      : numbers(std::move(drawn)),
        expected(Oracle(of_side, numbers).expected),
        h_n(k.dtype, k.batch_size * k.output_size()),
        c_n(k.dtype, k.batch_size * k.hidden_size),
        saved(k.dtype, k.total_rows() * cell_info(k.cell).saved_width() * k.hidden_size),
        grad_h_n(k.dtype, numbers.grad_h_n),
        grad_c_n(k.dtype, numbers.grad_c_n) {
    for (const Doubles& values : numbers.inputs) in.emplace_back(k.dtype, values);
    for (const Doubles& values : expected.grads) {
      grads.emplace_back(k.dtype, static_cast<int64_t>(values.size()));
    }
  }
  void* input(int i) { return numbers.inputs[i].empty() ? nullptr : in[i].data(); }
  void* grad(const CudaCase& k, int i) {
    return i == k.absent_grad || grads[i].size() == 0 ? nullptr : grads[i].data();
  }

  Numbers numbers;
  Expected expected;
  std::vector<Buffer> in, grads;
  Buffer h_n, c_n, saved, grad_h_n, grad_c_n;
};

struct OtherDirection : LayerCase {
  explicit OtherDirection(const LayerCase& k) : LayerCase(k) {
    direction = k.direction == Direction::kForward ? Direction::kReverse : Direction::kForward;
  }
  std::string way() const override { return ""; }
};

// A case with its oracle, to be run under any number of seeds.
class Problems {
 public:
  explicit Problems(const CudaCase& test_case) : k_(test_case) {
    const OtherDirection other(k_);
    sides_.emplace_back(k_, k_, make_problem(k_, 7));
    if (k_.directions == 2) {
      Numbers numbers = make_problem(other, 8);
      numbers.inputs[kX] = sides_[0].numbers.inputs[kX];
      sides_.emplace_back(k_, other, std::move(numbers));
    }
  }

  Result run(const Kernels& kernels, uint64_t seed) {
    ++runs;
    cudasim::set_seed(seed);
    Result result;
    result.is_right = forward(kernels, &result) && (!k_.training || backward(kernels, &result));
    return result;
  }

 private:
  static constexpr int64_t kGap = 3;  // columns of output that belong to nobody

  int64_t row_stride() const { return k_.directions * k_.output_size() + kGap; }

  LayerShape shape(int d) const {
    const bool is_forward = (k_.direction == Direction::kForward) == (d == 0);
    return {k_.cell,        k_.dtype,      is_forward ? Direction::kForward : Direction::kReverse,
            k_.seq_len,     k_.batch_size, k_.total_rows(),
            k_.input_size,  k_.hidden_size, k_.proj_size,
            k_.packed ? batch_sizes_.data() : nullptr};
  }
  LayerWeights weights(int d) {
    Side& side = sides_[d];
    return {side.in[kWeightIh].data(), side.in[kWeightHh].data(), side.input(kBiasIh),
            side.input(kBiasHh), side.input(kWeightHr)};
  }
  void* column(Buffer& buffer, int d) const {
    if (buffer.size() == 0) return nullptr;
    return static_cast<char*>(buffer.data()) + d * k_.output_size() * dtype_bytes(k_.dtype);
  }

  bool forward(const Kernels& kernels, Result* result) {
    output_ = Buffer(k_.dtype, k_.total_rows() * row_stride());
    std::array<LayerForwardArgs, kMaxDirections> args{};
    for (int d = 0; d < k_.directions; ++d) {
      Side& side = sides_[d];
      args[d] = {shape(d),
                 weights(d),
                 sides_[0].input(kX),
                 side.input(kH0),
                 side.input(kC0),
                 column(output_, d),
                 row_stride(),
                 side.h_n.data(),
                 k_.has_c() ? side.c_n.data() : nullptr,
                 k_.training ? side.saved.data() : nullptr};
    }
    SimRuntime runtime;
    result->status =
        run_forward(args.data(), k_.directions, k_.plan(Pass::kForward), kernels.forward, runtime);
    if (!result->status.ok) return false;

    const int64_t p = k_.output_size(), h = k_.hidden_size;
    bool ok = true;
    for (int d = 0; d < k_.directions; ++d) {
      const Side& side = sides_[d];
      ok = is_close(k_, "output", output_, side.expected.output, p, row_stride(), d * p) &&
           is_close(k_, "h_n", side.h_n, side.expected.h_n, p, p) &&
           is_close(k_, "c_n", side.c_n, side.expected.c_n, h, h) && ok;
      keep(side.h_n, result);
      keep(side.c_n, result);
    }
    for (int64_t row = 0; row < k_.total_rows(); ++row) {
      for (int64_t i = k_.directions * p; i < row_stride(); ++i) {
        ok = ok && std::isnan(output_.get(row * row_stride() + i));
      }
    }
    keep(output_, result);
    return ok;
  }

  bool backward(const Kernels& kernels, Result* result) {
    const int64_t p = k_.output_size(), rows = k_.total_rows(), i_size = k_.input_size;
    const bool has_grad_output = !sides_[0].numbers.grad_output.empty();
    Buffer grad_output(k_.dtype, has_grad_output ? rows * k_.directions * p : 0);
    for (int d = 0; has_grad_output && d < k_.directions; ++d) {
      for (int64_t i = 0; i < rows * p; ++i) {
        grad_output.set((i / p * k_.directions + d) * p + i % p, sides_[d].numbers.grad_output[i]);
      }
    }
    const auto given = [](Buffer& buffer) { return buffer.size() == 0 ? nullptr : buffer.data(); };
    Side& first = sides_[0];
    if (k_.accumulate) first.grads[kX].fill(1);
    std::array<LayerBackwardArgs, kMaxDirections> args{};
    for (int d = 0; d < k_.directions; ++d) {
      Side& side = sides_[d];
      const auto grad = [&](int i) { return side.grad(k_, i); };
      args[d] = {shape(d),
                 weights(d),
                 first.input(kX),
                 side.input(kH0),
                 side.input(kC0),
                 column(output_, d),
                 row_stride(),
                 side.saved.data(),
                 column(grad_output, d),
                 k_.directions * p,
                 given(side.grad_h_n),
                 given(side.grad_c_n),
                 first.grad(k_, kX),
                 d > 0 || k_.accumulate,
                 grad(kH0),
                 grad(kC0),
                 grad(kWeightIh),
                 grad(kWeightHh),
                 grad(kBiasIh),
                 grad(kBiasHh),
                 grad(kWeightHr)};
    }
    SimRuntime runtime;
    result->status = run_backward(args.data(), k_.directions, k_.plan(Pass::kBackward),
                                  kernels.backward, runtime);
    if (!result->status.ok) return false;

    const char* names[] = {"grad_input",     "grad_h_0",     "grad_c_0",     "grad_weight_ih",
                           "grad_weight_hh", "grad_bias_ih", "grad_bias_hh", "grad_weight_hr"};
    bool ok = true;
    for (int d = 0; d < k_.directions; ++d) {
      for (int i = 0; i < kInputCount; ++i) {
        if (i == k_.absent_grad || (i == kX && d > 0)) continue;
        Doubles values = sides_[d].expected.grads[i];
        for (int64_t j = 0; i == kX && j < rows * i_size; ++j) {
          if (k_.directions == 2) values[j] += sides_[1].expected.grads[kX][j];
          if (k_.accumulate) values[j] += 1;
        }
        ok = is_close(k_, names[i], sides_[d].grads[i], values, 1, 1) && ok;
        keep(sides_[d].grads[i], result);
      }
    }
    return ok;
  }

  void keep(const Buffer& buffer, Result* result) const {
    if (k_.wants_bits) result->buffers.push_back(buffer.copy());
  }

  const CudaCase& k_;
  const std::vector<int64_t> batch_sizes_ = k_.batch_sizes();
  std::vector<Side> sides_;
  Buffer output_{k_.dtype, 0};
};

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
    for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      k.dtype = dtype;
      for_each_direction(k, [](CudaCase one) {
        for (one.absent_grad = -1; one.absent_grad < kGradEnd; ++one.absent_grad) {
          one.accumulate = one.absent_grad == -1;
          CHECK(is_right(one, 1));
        }
      });
    }
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
