#include "cuda/self_test.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "cells/registry.h"
#include "common/args.h"
#include "cuda/cuda_layer.h"
#include "math/half.h"

namespace fusedrnn {

namespace {

// Several blocks of units and rows, with rests.
constexpr int64_t kSteps = 3, kBatch = 19, kInput = 5, kHidden = 40, kRows = kSteps * kBatch;

using Doubles = std::vector<double>;

double rounded(DType dtype, double value) {
  switch (dtype) {
    case DType::kBFloat16:
      return to_float(from_float<BFloat16>(static_cast<float>(value)));
    case DType::kFloat16:
      return to_float(from_float<Float16>(static_cast<float>(value)));
    case DType::kFloat32:
      return static_cast<float>(value);
    case DType::kFloat64:
      break;
  }
  return value;
}

std::vector<char> encode(DType dtype, const Doubles& values) {
  std::vector<char> bytes(values.size() * static_cast<size_t>(dtype_bytes(dtype)));
  visit_dtype(dtype, [&](auto storage) {
    using S = decltype(storage);
    for (size_t i = 0; i < values.size(); ++i) {
      S value;
      if constexpr (sizeof(S) == 8) {
        value = values[i];
      } else {
        value = from_float<S>(static_cast<float>(values[i]));
      }
      std::memcpy(&bytes[i * sizeof(S)], &value, sizeof(S));
    }
  });
  return bytes;
}

Doubles decode(DType dtype, const std::vector<char>& bytes) {
  Doubles values(bytes.size() / static_cast<size_t>(dtype_bytes(dtype)));
  visit_dtype(dtype, [&](auto storage) {
    using S = decltype(storage);
    for (size_t i = 0; i < values.size(); ++i) {
      S value;
      std::memcpy(&value, &bytes[i * sizeof(S)], sizeof(S));
      if constexpr (sizeof(S) == 8) {
        values[i] = value;
      } else {
        values[i] = to_float(value);
      }
    }
  });
  return values;
}

// A layer's tensors, by what forward reads, what it writes, and what backward reads and writes;
// each as in common/args.h.
struct SmallLayer {
  Doubles weight_ih, weight_hh, bias_ih, bias_hh, params, input, h_0, c_0;
  Doubles output, h_n, c_n, saved;
  Doubles grad_output, grad_h_n, grad_c_n;
  Doubles grad_weight_ih, grad_weight_hh, grad_bias_ih, grad_bias_hh, grad_params, grad_input;
  Doubles grad_h_0, grad_c_0;
};

// Numbers that the storage type has, the same ones in every run.
class Numbers {
 public:
  explicit Numbers(DType dtype) : dtype_(dtype) {}
  Doubles draw(int64_t count, double scale) {
    Doubles values(static_cast<size_t>(count));
    for (double& value : values) {
      state_ = state_ * 6364136223846793005u + 1442695040888963407u;
      const double unit = static_cast<double>(state_ >> 40) / (1 << 24);
      value = rounded(dtype_, scale * (2 * unit - 1));
    }
    return values;
  }

 private:
  DType dtype_;
  uint64_t state_ = 1;
};

// The layer by plain loops, with what goes through memory rounded as the kernels do.
template <template <class> class Cell>
class Plain {
 public:
  using C = Cell<double>;
  static constexpr int64_t G = C::kGates, M = C::kParams, W = C::kSaved + C::kStates - 1;
  static constexpr bool kHasC = C::kStates > 1;

  explicit Plain(DType dtype) : dtype_(dtype) {
    Numbers numbers(dtype);
    p.weight_ih = numbers.draw(G * kHidden * kInput, 0.5);
    p.weight_hh = numbers.draw(G * kHidden * kHidden, 0.2);
    p.bias_ih = numbers.draw(G * kHidden, 0.5);
    p.bias_hh = numbers.draw(G * kHidden, 0.5);
    p.params = numbers.draw(M * kHidden, 0.5);
    p.input = numbers.draw(kRows * kInput, 1);
    p.h_0 = numbers.draw(kBatch * kHidden, 1);
    p.c_0 = numbers.draw(kHasC ? kBatch * kHidden : 0, 1);
    p.grad_output = numbers.draw(kRows * kHidden, 1);
    p.grad_h_n = numbers.draw(kBatch * kHidden, 1);
    p.grad_c_n = numbers.draw(kHasC ? kBatch * kHidden : 0, 1);
    p.output.resize(kRows * kHidden);
    p.saved.resize(kRows * W * kHidden);
    forward();
    backward();
  }

  SmallLayer p;

 private:
  double h_before(int64_t t, int64_t b, int64_t u) const {
    return t == 0 ? p.h_0[b * kHidden + u] : p.output[((t - 1) * kBatch + b) * kHidden + u];
  }

  void forward() {
    Doubles c = p.c_0;
    for (int64_t t = 0; t < kSteps; ++t) {
      for (int64_t b = 0; b < kBatch; ++b) {
        for (int64_t u = 0; u < kHidden; ++u) forward(t, b, u, &c);
      }
    }
    p.h_n.assign(p.output.end() - kBatch * kHidden, p.output.end());
    p.c_n = c;
  }

  void forward(int64_t t, int64_t b, int64_t u, Doubles* c) {
    const int64_t row = t * kBatch + b;
    Values<double, C::kGates> x, r;
    for (int64_t g = 0; g < G; ++g) {
      const int64_t j = g * kHidden + u;
      x[g] = p.bias_ih[j];
      r[g] = p.bias_hh[j];
      for (int64_t i = 0; i < kInput; ++i) {
        x[g] += p.weight_ih[j * kInput + i] * p.input[row * kInput + i];
      }
      for (int64_t k = 0; k < kHidden; ++k) {
        r[g] += p.weight_hh[j * kHidden + k] * h_before(t, b, k);
      }
    }
    Values<double, C::kStates> prev, next;
    prev[0] = h_before(t, b, u);
    if constexpr (kHasC) prev[1] = (*c)[b * kHidden + u];
    Values<double, C::kSaved> saved;
    C::forward(x, r, params_of(u), prev, next, saved);
    p.output[row * kHidden + u] = rounded(dtype_, next[0]);
    for (int k = 0; k < C::kSaved; ++k) saved_at(row, k, u) = rounded(dtype_, saved[k]);
    if constexpr (kHasC) {
      (*c)[b * kHidden + u] = next[1];
      saved_at(row, C::kSaved, u) = rounded(dtype_, next[1]);
    }
  }

  void backward() {
    p.grad_weight_ih.resize(p.weight_ih.size());
    p.grad_weight_hh.resize(p.weight_hh.size());
    p.grad_bias_ih.resize(p.bias_ih.size());
    p.grad_bias_hh.resize(p.bias_hh.size());
    p.grad_params.resize(p.params.size());
    p.grad_input.resize(p.input.size());
    Doubles dh = p.grad_h_n, dc = p.grad_c_n;
    for (int64_t t = kSteps - 1; t >= 0; --t) {
      Doubles dh_before(dh.size());
      for (int64_t b = 0; b < kBatch; ++b) {
        for (int64_t u = 0; u < kHidden; ++u) backward(t, b, u, dh, &dc, &dh_before);
      }
      dh = dh_before;
    }
    p.grad_h_0 = dh;
    p.grad_c_0 = dc;
  }

  void backward(int64_t t, int64_t b, int64_t u, const Doubles& dh, Doubles* dc, Doubles* before) {
    const int64_t row = t * kBatch + b, at = b * kHidden + u;
    Values<double, C::kStates> prev, next, dnext, dprev;
    Values<double, C::kSaved> saved;
    for (int k = 0; k < C::kSaved; ++k) saved[k] = saved_at(row, k, u);
    prev[0] = h_before(t, b, u);
    next[0] = p.output[row * kHidden + u];
    dnext[0] = dh[at] + p.grad_output[row * kHidden + u];
    if constexpr (kHasC) {
      prev[1] = t == 0 ? p.c_0[at] : saved_at(row - kBatch, C::kSaved, u);
      next[1] = saved_at(row, C::kSaved, u);
      dnext[1] = (*dc)[at];
    }
    Values<double, C::kGates> dx, dr;
    Values<double, C::kParams> dparams;
    C::backward(saved, params_of(u), prev, next, dnext, dx, dr, dprev, dparams);
    (*before)[at] += dprev[0];
    if constexpr (kHasC) (*dc)[at] = dprev[1];
    for (int m = 0; m < C::kParams; ++m) p.grad_params[m * kHidden + u] += dparams[m];
    for (int64_t g = 0; g < G; ++g) {
      const int64_t j = g * kHidden + u;
      p.grad_bias_ih[j] += dx[g];
      p.grad_bias_hh[j] += dr[g];
      for (int64_t i = 0; i < kInput; ++i) {
        p.grad_input[row * kInput + i] += dx[g] * p.weight_ih[j * kInput + i];
        p.grad_weight_ih[j * kInput + i] += dx[g] * p.input[row * kInput + i];
      }
      for (int64_t k = 0; k < kHidden; ++k) {
        (*before)[b * kHidden + k] += dr[g] * p.weight_hh[j * kHidden + k];
        p.grad_weight_hh[j * kHidden + k] += dr[g] * h_before(t, b, k);
      }
    }
  }

  Values<double, C::kParams> params_of(int64_t u) const {
    Values<double, C::kParams> params;
    for (int m = 0; m < C::kParams; ++m) params[m] = p.params[m * kHidden + u];
    return params;
  }
  double& saved_at(int64_t row, int k, int64_t u) { return p.saved[(row * W + k) * kHidden + u]; }

  DType dtype_;
};

template <template <class> class Cell>
SmallLayer solve(CellTag<Cell>, DType dtype) {
  return Plain<Cell>(dtype).p;
}

// The problem's tensors on the device: inputs are copied there, results are compared with theirs.
class Tensors {
 public:
  Tensors(DType dtype, double eps, RuntimeWithCopies& runtime)
      : dtype_(dtype), eps_(eps), runtime_(runtime) {}

  const void* in(const Doubles& values) {
    const std::vector<char> bytes = encode(dtype_, values);
    return bytes.empty() ? nullptr : copied(bytes);
  }
  // Room for what is expected to be these; it holds NaN at first.
  void* out(const char* name, const Doubles& values) {
    if (values.empty()) return nullptr;
    const std::vector<char> nans(values.size() * static_cast<size_t>(dtype_bytes(dtype_)), '\xff');
    results_.push_back({name, &values, copied(nans)});
    return results_.back().device;
  }

  Status compare(const KernelFamily& family) {
    for (const Result& result : results_) {
      const Doubles& expected = *result.expected;
      std::vector<char> bytes(expected.size() * static_cast<size_t>(dtype_bytes(dtype_)));
      status_ = runtime_.to_host(bytes.data(), result.device, bytes.size());
      if (!status_.ok) return status_;
      const Doubles actual = decode(dtype_, bytes);
      double scale = 1;
      for (double value : expected) scale = std::max(scale, std::fabs(value));
      // Rounded once a step and once in each of the sums.
      const double limit = eps_ * (kSteps + 8) * (1 + scale);
      for (size_t i = 0; i < expected.size(); ++i) {
        if (std::fabs(actual[i] - expected[i]) <= limit) continue;
        return Status::error("%s: %s[%lld] is %.6g, expected %.6g within %.2g",
                             family.text().c_str(), result.name, static_cast<long long>(i),
                             actual[i], expected[i], limit);
      }
    }
    return {};
  }

  Status status() const { return status_; }

 private:
  struct Result {
    const char* name;
    const Doubles* expected;
    void* device;
  };

  void* copied(const std::vector<char>& bytes) {
    void* device = runtime_.allocate(bytes.size());
    if (status_.ok) status_ = runtime_.to_device(device, bytes.data(), bytes.size());
    return device;
  }

  DType dtype_;
  double eps_;
  RuntimeWithCopies& runtime_;
  Status status_;
  std::vector<Result> results_;
};

LayerShape shape_of(const KernelFamily& family) {
  LayerShape shape{};
  shape.cell = family.cell;
  shape.dtype = family.dtype;
  shape.seq_len = kSteps;
  shape.batch_size = kBatch;
  shape.total_rows = kRows;
  shape.input_size = kInput;
  shape.hidden_size = kHidden;
  return shape;
}

}  // namespace

std::string KernelFamily::text() const {
  static constexpr const char* kDTypes[] = {"float32", "float64", "bfloat16", "float16"};
  std::string text = std::string(cell_info(cell).name) + " " + kDTypes[static_cast<int>(dtype)];
  if (on_tensor_cores) text += " by TF32";
  return text + " " + schedule + (pass == Pass::kForward ? " forward" : " backward");
}

Status test_family(const KernelFamily& family, const CudaInfo& device, const CudaKernels& kernels,
                   RuntimeWithCopies& runtime) {
  Problem problem{};
  problem.cell = family.cell;
  problem.dtype = family.dtype;
  problem.seq_len = kSteps;
  problem.batch_size = kBatch;
  problem.total_rows = kRows;
  problem.input_size = kInput;
  problem.hidden_size = kHidden;
  problem.directions = 1;
  problem.training = true;
  CudaPlan plan{};
  const Status planned =
      make_cuda_plan(problem, family.pass, device, {family.schedule, "0"}, &plan);
  if (!planned.ok) return planned;

  // The rounding of float32, float64, bfloat16, float16; and of TF32, which has float16's digits.
  constexpr double kEps[] = {1.2e-7, 2.3e-16, 7.9e-3, 9.8e-4};
  double eps = kEps[static_cast<int>(family.dtype)];
  if (family.dtype == DType::kFloat32 && device.allow_tf32) eps = kEps[3];
  const SmallLayer p = visit_cell(family.cell, [&](auto tag) { return solve(tag, family.dtype); });
  Tensors tensors(family.dtype, eps, runtime);
  const LayerWeights weights{tensors.in(p.weight_ih),
                             tensors.in(p.weight_hh),
                             tensors.in(p.bias_ih),
                             tensors.in(p.bias_hh),
                             nullptr,
                             tensors.in(p.params)};
  const auto set_inputs = [&](auto* args) {
    args->shape = shape_of(family);
    args->weights = weights;
    args->input = tensors.in(p.input);
    args->h_0 = tensors.in(p.h_0);
    args->c_0 = tensors.in(p.c_0);
    args->output_row_stride = kHidden;
  };
  Status status;
  if (family.pass == Pass::kForward) {
    LayerForwardArgs args{};
    set_inputs(&args);
    args.output = tensors.out("output", p.output);
    args.h_n = tensors.out("h_n", p.h_n);
    args.c_n = tensors.out("c_n", p.c_n);
    args.saved = tensors.out("what is saved", p.saved);
    status = tensors.status();
    if (status.ok) status = run_forward(&args, 1, plan, kernels, runtime);
  } else {
    LayerBackwardArgs args{};
    set_inputs(&args);
    args.output = tensors.in(p.output);
    args.saved = tensors.in(p.saved);
    args.grad_output = tensors.in(p.grad_output);
    args.grad_output_row_stride = kHidden;
    args.grad_h_n = tensors.in(p.grad_h_n);
    args.grad_c_n = tensors.in(p.grad_c_n);
    args.grad_input = tensors.out("grad_input", p.grad_input);
    args.grad_h_0 = tensors.out("grad_h_0", p.grad_h_0);
    args.grad_c_0 = tensors.out("grad_c_0", p.grad_c_0);
    args.grad_weight_ih = tensors.out("grad_weight_ih", p.grad_weight_ih);
    args.grad_weight_hh = tensors.out("grad_weight_hh", p.grad_weight_hh);
    args.grad_bias_ih = tensors.out("grad_bias_ih", p.grad_bias_ih);
    args.grad_bias_hh = tensors.out("grad_bias_hh", p.grad_bias_hh);
    args.grad_params = tensors.out("grad_params", p.grad_params);
    status = tensors.status();
    if (status.ok) status = run_backward(&args, 1, plan, plan, kernels, runtime);
  }
  if (!status.ok) return Status::error("%s: %.300s", family.text().c_str(), status.message);
  return tensors.compare(family);
}

SelfTests& SelfTests::of_device(int device) {
  // They are never destroyed, as what they are asked by may outlive static objects.
  static std::mutex& mutex = *new std::mutex;
  static auto& tests = *new std::map<int, SelfTests>;
  const std::lock_guard<std::mutex> lock(mutex);
  return tests[device];
}

bool SelfTests::allow(const KernelFamily& family,
                      const std::function<std::optional<Status>()>& test,
                      const std::function<void(const std::string&)>& warn) {
  const std::string name = family.text();
  std::optional<Status> result;
  {
    // Others wait, so that nobody runs what is being tested.
    const std::lock_guard<std::mutex> lock(mutex_);
    if (const auto found = tested_.find(name); found != tested_.end()) return found->second.ok;
    result = test();
    if (!result.has_value()) return true;
    tested_.emplace(name, *result);
  }
  if (!result->ok) warn(result->message);
  return result->ok;
}

std::map<std::string, std::string> SelfTests::results() {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::map<std::string, std::string> texts;
  for (const auto& [name, result] : tested_) texts[name] = result.ok ? "passed" : result.message;
  return texts;
}

}  // namespace fusedrnn
