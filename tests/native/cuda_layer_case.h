// A layer on CUDA in the simulator, next to its oracle: what a case is, and how it runs.
#pragma once

#include <array>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "cuda/launch.h"
#include "cuda/layer.h"
#include "layer_oracle.h"
#include "scheduler.h"

namespace oracle {

// How often a layer ran: one case under one seed.
inline int runs = 0;

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
    return {k_.cell,
            k_.dtype,
            is_forward ? Direction::kForward : Direction::kReverse,
            k_.seq_len,
            k_.batch_size,
            k_.total_rows(),
            k_.input_size,
            k_.hidden_size,
            k_.proj_size,
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

}  // namespace oracle
