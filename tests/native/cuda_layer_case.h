// A layer on CUDA next to its oracle: what a case is, and how it runs. test_device.h is one of
// twins: that of cudasim/ runs it in the simulator, that of gpu/ on a GPU.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "cuda/cuda_layer.h"
#include "cuda/cuda_library.h"
#include "layer_oracle.h"
#include "test_device.h"

namespace oracle {

// How often a layer ran: one case in one order of threads.
inline int runs = 0;

// A schedule with what it can be given: rows of single_block only, the others of fused steps.
struct Way {
  Schedule schedule;
  StepForm form;
  int thread_rows, row_groups;
  StepMath math = StepMath::kFma;
  int row_tile = 0;
};

struct CudaCase : LayerCase {
  CudaCase() = default;
  explicit CudaCase(const Way& way)
      : schedule(way.schedule),
        form(way.form),
        thread_rows(way.thread_rows),
        row_groups(way.row_groups),
        math(way.math),
        row_tile(way.row_tile) {
    tf32 = math == StepMath::kTensor;
  }

  Schedule schedule = Schedule::kPerStep;
  StepForm form = StepForm::kProduct;
  int thread_rows = 1, row_groups = 1;  // single_block
  StepMath math = StepMath::kFma;
  int row_tile = 0;
  int directions = 1;                  // both: of `direction` and the other one
  int64_t missing_smem_bytes[2] = {};  // by Pass: a fault
  bool wants_bits = false;

  std::string way() const override {
    std::string text = directions == 2 ? "and back " : "";
    if (schedule == Schedule::kSingleBlock) {
      return text + "single_block " + std::to_string(thread_rows) + "x" +
             std::to_string(row_groups);
    }
    if (form == StepForm::kProduct) return text + "per_step/product";
    return text + "per_step/fused" +
           (math == StepMath::kTensor ? " tensor " + std::to_string(row_tile) : "");
  }

  CudaPlan plan(Pass pass) const {
    CudaPlan plan{};
    plan.schedule = schedule;
    plan.form = form;
    plan.chunk_steps = chunk_steps;
    if (form == StepForm::kFused) plan.recording = Recording::kAlways;
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

// Whether the device has the shared memory that the plans of a case need.
inline bool fits(const CudaCase& k) {
  return std::max(k.plan(Pass::kForward).smem_bytes, k.plan(Pass::kBackward).smem_bytes) <=
         max_smem_bytes();
}

// What forced_kernels makes of the next step.
inline FusedStep forced_step{};
inline bool is_in_sequence = false;
template <class Args>
Args with_forced_step(Args args) {
  args.fused = forced_step;
  if (is_in_sequence) forced_step.start = StepStart::kAfterStep;
  return args;
}

// Products by plain loops; scratch in pieces of their own.
class TestRuntime : public CudaRuntime {
 public:
  Status gemm(const GemmArgs& product) override {
    const bool to_accum = product.out != product.in;
    switch (product.in) {
      case DType::kFloat64:
        return enqueue_product<double, double>(product);
      case DType::kBFloat16:
        return to_accum ? enqueue_product<BFloat16, float>(product)
                        : enqueue_product<BFloat16, BFloat16>(product);
      case DType::kFloat16:
        return to_accum ? enqueue_product<Float16, float>(product)
                        : enqueue_product<Float16, Float16>(product);
      case DType::kFloat32:
        break;
    }
    return enqueue_product<float, float>(product);
  }

  // The memory is of 16-bit numbers, whose NaN is one to every type.
  void* allocate(size_t bytes) override {
    pieces_.emplace_back(DType::kBFloat16, static_cast<int64_t>((bytes + 1) / 2));
    return pieces_.back().data();
  }

  void* stream() override { return device_stream(); }

  Status launch_together(const KernelSequence& sequence) override {
    is_in_sequence = true;
    const Status status = CudaRuntime::launch_together(sequence);
    is_in_sequence = false;
    forced_step.start = StepStart::kAlone;
    return status;
  }

 private:
  std::vector<DeviceBuffer> pieces_;
};

// The kernels of either pass; a planted fault is in one of them.
struct Kernels {
  CudaKernels forward, backward;
};

inline Kernels right_kernels(const CudaCase& k) {
  const CudaKernels kernels = cuda_kernels(k.cell, k.dtype);
  return {kernels, kernels};
}

// Kernels whose fused steps multiply as a case says. After the first one of a sequence, a step may
// begin before the one before has ended.
inline CudaKernels forced_kernels(const CudaKernels& kernels, const CudaCase& k) {
  static CudaCellKernels cell;
  cell = kernels.cell;
  forced_step = {k.math, StepStart::kAlone, k.row_tile};
  CudaKernels forced = kernels;
  forced.cell.forward_step = [](const ForwardStepArgs& args, int directions, StepForm form,
                                Stream stream) {
    return cell.forward_step(with_forced_step(args), directions, form, stream);
  };
  forced.cell.backward_step = [](const BackwardStepArgs& args, int directions, StepForm form,
                                 Stream stream) {
    return cell.backward_step(with_forced_step(args), directions, form, stream);
  };
  return forced;
}

// Everything that one run of a case writes.
struct Result {
  std::string run;
  Status status;
  std::vector<Buffer> buffers;
  bool is_right = false;
};

// A direction's inputs, gradients, what they should come to, and room for what they do.
struct Side {
  Side(const CudaCase& k, const LayerCase& of_side, Numbers drawn)
      : numbers(std::move(drawn)),
        expected(Oracle(of_side, numbers).expected),
        grad_h_n(k.dtype, numbers.grad_h_n),
        grad_c_n(k.dtype, numbers.grad_c_n),
        grad_c(k.dtype, numbers.grad_c) {
    for (const Doubles& values : numbers.inputs) in.emplace_back(k.dtype, values);
  }
  // Forgets what an earlier run wrote.
  void make_room(const CudaCase& k) {
    const int64_t states = k.batch_size * k.hidden_size;
    const int64_t saved_values = k.total_rows() * cell_info(k.cell).saved_width() * k.hidden_size;
    h_n = DeviceBuffer(k.dtype, k.batch_size * k.output_size());
    c_n = DeviceBuffer(k.dtype, k.has_c() ? states : 0);
    saved = DeviceBuffer(k.dtype, k.training ? saved_values : 0);
    if (k.training && k.recompute > 0) {
      const int64_t places = (k.seq_len + k.recompute - 1) / k.recompute;
      saved = DeviceBuffer(k.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32,
                           k.has_c() ? places * states : 0);
    }
    c = DeviceBuffer(k.dtype, static_cast<int64_t>(expected.c.size()));
    grad_gates_x = DeviceBuffer(k.dtype, static_cast<int64_t>(expected.grad_gates_x.size()));
    grad_gates_r = DeviceBuffer(k.dtype, static_cast<int64_t>(expected.grad_gates_r.size()));
    grads.clear();
    for (const Doubles& values : expected.grads) {
      grads.emplace_back(k.dtype, static_cast<int64_t>(values.size()));
    }
  }
  void* input(int i) { return in[i].size() == 0 ? nullptr : in[i].data(); }
  void* grad(const CudaCase& k, int i) {
    return i == k.absent_grad || grads[i].size() == 0 ? nullptr : grads[i].data();
  }
  void* gates(const CudaCase& k, int i) {
    DeviceBuffer& buffer = i == kGradGatesX ? grad_gates_x : grad_gates_r;
    return i == k.absent_grad || buffer.size() == 0 ? nullptr : buffer.data();
  }

  Numbers numbers;
  Expected expected;
  std::vector<DeviceBuffer> in, grads;
  DeviceBuffer grad_h_n, grad_c_n, grad_c;
  DeviceBuffer h_n{DType::kFloat32, 0}, c_n{DType::kFloat32, 0}, saved{DType::kFloat32, 0};
  DeviceBuffer c{DType::kFloat32, 0};
  DeviceBuffer grad_gates_x{DType::kFloat32, 0}, grad_gates_r{DType::kFloat32, 0};
};

struct OtherDirection : LayerCase {
  explicit OtherDirection(const LayerCase& k) : LayerCase(k) {
    direction = k.direction == Direction::kForward ? Direction::kReverse : Direction::kForward;
  }
  std::string way() const override { return ""; }
};

// A case with its oracle, to be run any number of times.
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
    lengths_ = DeviceBuffer(Buffer::of_values(sides_[0].numbers.lengths));
    reset_ = DeviceBuffer(Buffer::of_values(sides_[0].numbers.reset));
    grad_output_ = DeviceBuffer(k_.dtype, joined_grad_output());
  }

  Result run(const Kernels& kernels) {
    ++runs;
    Result result;
    result.run = begin_run();
    output_ = DeviceBuffer(k_.dtype, k_.total_rows() * row_stride());
    for (Side& side : sides_) side.make_room(k_);
    result.is_right = forward(kernels, &result) && (!k_.training || backward(kernels, &result));
    return result;
  }

 private:
  // Columns of output that belong to nobody. Fetched with the others, they must hold something.
  // They leave the alignment of rows as it is.
  int64_t gap() const { return !poisons_memory() ? 0 : k_.output_size() % 8 == 0 ? 8 : 3; }

  int64_t row_stride() const { return k_.directions * k_.output_size() + gap(); }

  // The rows of both directions, or nothing.
  Doubles joined_grad_output() const {
    const int64_t p = k_.output_size();
    Doubles joined(sides_.size() * sides_[0].numbers.grad_output.size());
    for (size_t d = 0; d < sides_.size(); ++d) {
      const Doubles& values = sides_[d].numbers.grad_output;
      for (int64_t i = 0; i < static_cast<int64_t>(values.size()); ++i) {
        joined[(i / p * k_.directions + d) * p + i % p] = values[i];
      }
    }
    return joined;
  }

  LayerShape shape(int d) {
    const bool is_forward = (k_.direction == Direction::kForward) == (d == 0);
    LayerShape shape{};
    shape.cell = k_.cell;
    shape.dtype = k_.dtype;
    shape.direction = is_forward ? Direction::kForward : Direction::kReverse;
    shape.seq_len = k_.seq_len;
    shape.batch_size = k_.batch_size;
    shape.total_rows = k_.total_rows();
    shape.input_size = k_.input_size;
    shape.hidden_size = k_.hidden_size;
    shape.proj_size = k_.proj_size;
    shape.batch_sizes = k_.packed ? batch_sizes_.data() : nullptr;
    shape.recompute = k_.recompute;
    shape.lengths = static_cast<const int64_t*>(given(lengths_));
    shape.reset = static_cast<const uint8_t*>(given(reset_));
    return shape;
  }
  LayerWeights weights(int d) {
    Side& side = sides_[d];
    return {side.in[kWeightIh].data(), side.in[kWeightHh].data(), side.input(kBiasIh),
            side.input(kBiasHh),       side.input(kWeightHr),     side.input(kParams)};
  }
  static void* given(DeviceBuffer& buffer) { return buffer.size() == 0 ? nullptr : buffer.data(); }
  void* column(DeviceBuffer& buffer, int d) const {
    if (buffer.size() == 0) return nullptr;
    return static_cast<char*>(buffer.data()) + d * k_.output_size() * dtype_bytes(k_.dtype);
  }

  bool forward(const Kernels& kernels, Result* result) {
    std::array<LayerForwardArgs, kMaxDirections> args{};
    for (int d = 0; d < k_.directions; ++d) {
      Side& side = sides_[d];
      LayerForwardArgs& one = args[d];
      one.shape = shape(d);
      one.weights = weights(d);
      one.input = sides_[0].input(kX);
      one.h_0 = side.input(kH0);
      one.c_0 = side.input(kC0);
      one.reset_h = side.input(kResetH);
      one.reset_c = side.input(kResetC);
      one.output = column(output_, d);
      one.output_row_stride = row_stride();
      one.h_n = side.h_n.data();
      one.c_n = given(side.c_n);
      one.c = given(side.c);
      one.saved = given(side.saved);
    }
    TestRuntime runtime;
    result->status = run_forward(args.data(), k_.directions, k_.plan(Pass::kForward),
                                 forced_kernels(kernels.forward, k_), runtime);
    if (result->status.ok) result->status = wait_for_device();
    if (!result->status.ok) return false;

    const int64_t p = k_.output_size(), h = k_.hidden_size;
    const Buffer& output = output_.fetch();
    bool ok = true;
    for (int d = 0; d < k_.directions; ++d) {
      const Side& side = sides_[d];
      ok = is_close(k_, "output", output, side.expected.output, p, row_stride(), d * p) &&
           is_close(k_, "h_n", side.h_n.fetch(), side.expected.h_n, p, p) &&
           is_close(k_, "c_n", side.c_n.fetch(), side.expected.c_n, h, h) &&
           is_close(k_, "c", side.c.fetch(), side.expected.c, h, h) && ok;
      keep(side.h_n, result);
      keep(side.c_n, result);
      keep(side.c, result);
    }
    for (int64_t row = 0; row < k_.total_rows(); ++row) {
      for (int64_t i = k_.directions * p; i < row_stride(); ++i) {
        ok = ok && std::isnan(output.get(row * row_stride() + i));
      }
    }
    keep(output_, result);
    return ok;
  }

  bool backward(const Kernels& kernels, Result* result) {
    const int64_t rows = k_.total_rows(), i_size = k_.input_size;
    Side& first = sides_[0];
    if (k_.accumulate) first.grads[kX] = DeviceBuffer(k_.dtype, Doubles(rows * i_size, 1));
    std::array<LayerBackwardArgs, kMaxDirections> args{};
    for (int d = 0; d < k_.directions; ++d) {
      Side& side = sides_[d];
      const auto grad = [&](int i) { return side.grad(k_, i); };
      LayerBackwardArgs& one = args[d];
      one.shape = shape(d);
      one.weights = weights(d);
      one.input = first.input(kX);
      one.h_0 = side.input(kH0);
      one.c_0 = side.input(kC0);
      one.reset_h = side.input(kResetH);
      one.reset_c = side.input(kResetC);
      one.output = column(output_, d);
      one.output_row_stride = row_stride();
      one.saved = given(side.saved);
      one.grad_output = column(grad_output_, d);
      one.grad_output_row_stride = k_.directions * k_.output_size();
      one.grad_h_n = given(side.grad_h_n);
      one.grad_c_n = given(side.grad_c_n);
      one.grad_c = given(side.grad_c);
      one.grad_input = first.grad(k_, kX);
      one.accumulate_grad_input = d > 0 || k_.accumulate;
      one.grad_h_0 = grad(kH0);
      one.grad_c_0 = grad(kC0);
      one.grad_reset_h = grad(kResetH);
      one.grad_reset_c = grad(kResetC);
      one.grad_weight_ih = grad(kWeightIh);
      one.grad_weight_hh = grad(kWeightHh);
      one.grad_bias_ih = grad(kBiasIh);
      one.grad_bias_hh = grad(kBiasHh);
      one.grad_weight_hr = grad(kWeightHr);
      one.grad_params = grad(kParams);
      one.grad_gates_x = side.gates(k_, kGradGatesX);
      one.grad_gates_r = side.gates(k_, kGradGatesR);
    }
    TestRuntime runtime;
    result->status =
        run_backward(args.data(), k_.directions, k_.plan(Pass::kBackward), k_.plan(Pass::kForward),
                     forced_kernels(kernels.backward, k_), runtime);
    if (result->status.ok) result->status = wait_for_device();
    if (!result->status.ok) return false;

    bool ok = true;
    for (int d = 0; d < k_.directions; ++d) {
      for (int i = 0; i < kInputCount; ++i) {
        if (i == k_.absent_grad || (i == kX && d > 0)) continue;
        Doubles values = sides_[d].expected.grads[i];
        for (int64_t j = 0; i == kX && j < rows * i_size; ++j) {
          if (k_.directions == 2) values[j] += sides_[1].expected.grads[kX][j];
          if (k_.accumulate) values[j] += 1;
        }
        ok = is_close(k_, kGradNames[i], sides_[d].grads[i].fetch(), values, 1, 1) && ok;
        keep(sides_[d].grads[i], result);
      }
      for (int i : {kGradGatesX, kGradGatesR}) {
        const bool is_x = i == kGradGatesX;
        Side& side = sides_[d];
        const DeviceBuffer& gates = is_x ? side.grad_gates_x : side.grad_gates_r;
        if (side.gates(k_, i) == nullptr) continue;
        ok = is_close(k_, is_x ? "grad_gates_x" : "grad_gates_r", gates.fetch(),
                      is_x ? side.expected.grad_gates_x : side.expected.grad_gates_r, 1, 1) &&
             ok;
        keep(gates, result);
      }
    }
    return ok;
  }

  void keep(const DeviceBuffer& buffer, Result* result) const {
    if (k_.wants_bits) result->buffers.push_back(buffer.fetch().copy());
  }

  const CudaCase& k_;
  const std::vector<int64_t> batch_sizes_ = k_.batch_sizes();
  std::vector<Side> sides_;
  DeviceBuffer output_{k_.dtype, 0}, grad_output_{k_.dtype, 0};
  DeviceBuffer lengths_{DType::kFloat16, 0}, reset_{DType::kFloat16, 0};
};

}  // namespace oracle
