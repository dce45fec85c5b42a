// The kernels of a layer against plain double loops: every cell, storage type, schedule,
// split, thread count, direction and kind of batch, on sizes around each tile. Long because the
// oracle, the generator of cases and the comparison belong together and serve these tests alone.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "cells/registry.h"
#include "check.h"
#include "cpu/kernels.h"
#include "math/half.h"

using namespace fusedrnn;

namespace {

using Doubles = std::vector<double>;

struct Case {
  CellKind cell = CellKind::kLstm;
  DType dtype = DType::kFloat32;
  Direction direction = Direction::kForward;
  Schedule schedule = Schedule::kPerStep;
  Split split = Split::kRows;
  int threads = 1;
  bool concurrent = true;
  bool multiplies_input = false;
  int64_t seq_len = 4, batch_size = 3, input_size = 5, hidden_size = 7, proj_size = 0;
  bool packed = false, bias = true, states = true, training = true;
  bool accumulate = false;  // into grad_input
  int64_t nan_row = -1;     // row of the input with a NaN
  int absent_grad = -1;     // index of the gradient that is not wanted or not given
  int64_t chunk_steps = 3;

  int64_t gates() const { return cell_info(cell).gates; }
  bool has_c() const { return cell_info(cell).states > 1; }
  int64_t output_size() const { return proj_size > 0 ? proj_size : hidden_size; }
  // Rows of each time: all of the batch, or fewer and fewer.
  std::vector<int64_t> batch_sizes() const {
    std::vector<int64_t> sizes(static_cast<size_t>(seq_len), batch_size);
    if (packed) {
      for (int64_t t = 1; t < seq_len; ++t) {
        sizes[t] = std::max<int64_t>(sizes[t - 1] - (t % 2) * (1 + batch_size / 4), 1);
      }
    }
    return sizes;
  }
  int64_t total_rows() const {
    int64_t rows = 0;
    for (int64_t size : batch_sizes()) rows += size;
    return rows;
  }
  std::string text() const {
    const char* dtypes[] = {"float32", "float64", "bfloat16", "float16"};
    char line[512];
    std::snprintf(line, sizeof(line),
                  "%s %s %s %s %s threads=%d T=%d B=%d I=%d H=%d P=%d packed=%d bias=%d states=%d "
                  "training=%d accumulate=%d absent=%d chunk=%d multiplies_input=%d",
                  cell_info(cell).name, dtypes[static_cast<int>(dtype)],
                  direction == Direction::kForward ? "forward" : "reverse", schedule_name(schedule),
                  split_name(split), threads, int(seq_len), int(batch_size), int(input_size),
                  int(hidden_size), int(proj_size), packed, bias, states, training, accumulate,
                  absent_grad, int(chunk_steps), multiplies_input);
    return line;
  }
};

// Elements of a storage type in memory of exactly their size, so that the address sanitizer
// sees each access beyond them.
class Buffer {
 public:
  Buffer(DType dtype, int64_t count)
      : dtype_(dtype), bytes_(new char[count * dtype_bytes(dtype) + 1]), count_(count) {
    fill(std::numeric_limits<double>::quiet_NaN());
  }
  Buffer(DType dtype, const Doubles& values) : Buffer(dtype, static_cast<int64_t>(values.size())) {
    for (int64_t i = 0; i < count_; ++i) set(i, values[i]);
  }
  void* data() { return bytes_.get(); }
  int64_t size() const { return count_; }
  void fill(double value) {
    for (int64_t i = 0; i < count_; ++i) set(i, value);
  }
  double get(int64_t i) const {
    const char* at = bytes_.get() + i * dtype_bytes(dtype_);
    switch (dtype_) {
      case DType::kFloat32:
        return read<float>(at);
      case DType::kBFloat16:
        return to_float(read<BFloat16>(at));
      case DType::kFloat16:
        return to_float(read<Float16>(at));
      case DType::kFloat64:
        break;
    }
    return read<double>(at);
  }
  void set(int64_t i, double value) {
    char* at = bytes_.get() + i * dtype_bytes(dtype_);
    switch (dtype_) {
      case DType::kFloat32:
        return write(at, static_cast<float>(value));
      case DType::kBFloat16:
        return write(at, from_float<BFloat16>(static_cast<float>(value)));
      case DType::kFloat16:
        return write(at, from_float<Float16>(static_cast<float>(value)));
      case DType::kFloat64:
        return write(at, value);
    }
  }
  bool same_bits(const Buffer& other) const {
    return std::memcmp(bytes_.get(), other.bytes_.get(), count_ * dtype_bytes(dtype_)) == 0;
  }

 private:
  template <class T>
  static T read(const char* at) {
    T value;
    std::memcpy(&value, at, sizeof(T));
    return value;
  }
  template <class T>
  static void write(char* at, T value) {
    std::memcpy(at, &value, sizeof(T));
  }

  DType dtype_;
  std::unique_ptr<char[]> bytes_;
  int64_t count_;
};

// Real threads, or the bodies one after the other; products by plain loops; scratch of NaN.
class TestRuntime : public Runtime {
 public:
  explicit TestRuntime(bool concurrent) : concurrent_(concurrent) {}

  void parallel(int max_threads, ParallelBody body) override {
    if (!concurrent_) {
      for (int i = 0; i < max_threads; ++i) body(i, max_threads);
      return;
    }
    std::vector<std::thread> threads;
    for (int i = 1; i < max_threads; ++i) threads.emplace_back([=] { body(i, max_threads); });
    body(0, max_threads);
    for (std::thread& thread : threads) thread.join();
  }

  void gemm(DType dtype, Transpose trans_a, Transpose trans_b, int64_t m, int64_t n, int64_t k,
            const void* a, int64_t lda, const void* b, int64_t ldb, double beta, void* c,
            int64_t ldc) override {
    if (dtype == DType::kFloat64) {
      multiply<double>(trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc);
    } else {
      multiply<float>(trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc);
    }
  }

  void* scratch(size_t bytes) override {
    constexpr size_t kAlign = 64;
    pieces_.emplace_back(new char[bytes + kAlign]);
    char* piece = pieces_.back().get();
    std::memset(piece, 0xFF, bytes + kAlign);
    return piece + (kAlign - reinterpret_cast<uintptr_t>(piece) % kAlign) % kAlign;
  }

 private:
  template <class T>
  static void multiply(Transpose trans_a, Transpose trans_b, int64_t m, int64_t n, int64_t k,
                       const void* a_void, int64_t lda, const void* b_void, int64_t ldb,
                       double beta, void* c_void, int64_t ldc) {
    const T* a = static_cast<const T*>(a_void);
    const T* b = static_cast<const T*>(b_void);
    T* c = static_cast<T*>(c_void);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        T sum = 0;
        for (int64_t x = 0; x < k; ++x) {
          sum += (trans_a == Transpose::kYes ? a[x * lda + i] : a[i * lda + x]) *
                 (trans_b == Transpose::kYes ? b[j * ldb + x] : b[x * ldb + j]);
        }
        c[i * ldc + j] = sum + (beta != 0 ? c[i * ldc + j] : 0);
      }
    }
  }

  bool concurrent_;
  std::vector<std::unique_ptr<char[]>> pieces_;
};

// Inputs in the order of LayerBackwardArgs' results, whose gradients are in the same order.
enum Input { kX, kH0, kC0, kWeightIh, kWeightHh, kBiasIh, kBiasHh, kWeightHr, kInputCount };
enum GradOfResult { kGradOutput = kInputCount, kGradHn, kGradCn, kGradEnd };

struct Numbers {
  Doubles inputs[kInputCount];  // empty when absent
  Doubles grad_output, grad_h_n, grad_c_n;
};

struct Expected {
  Doubles output, h_n, c_n;
  Doubles grads[kInputCount];
};

double round_to(DType dtype, double value) {
  Buffer one(dtype, 1);
  one.set(0, value);
  return one.get(0);
}

Numbers make_problem(const Case& k, unsigned seed) {
  std::mt19937 random(seed);
  const auto draw = [&](int64_t count, double scale) {
    std::uniform_real_distribution<double> uniform(-scale, scale);
    Doubles values(static_cast<size_t>(count));
    for (double& value : values) value = round_to(k.dtype, uniform(random));
    return values;
  };
  const int64_t gate_size = k.gates() * k.hidden_size, p = k.output_size();
  const double scale = 1 / std::sqrt(static_cast<double>(k.hidden_size));
  Numbers problem;
  problem.inputs[kX] = draw(k.total_rows() * k.input_size, 1);
  if (k.nan_row >= 0) {
    problem.inputs[kX][k.nan_row * k.input_size] = std::numeric_limits<double>::quiet_NaN();
  }
  if (k.states) problem.inputs[kH0] = draw(k.batch_size * p, 1);
  if (k.states && k.has_c()) problem.inputs[kC0] = draw(k.batch_size * k.hidden_size, 1);
  problem.inputs[kWeightIh] = draw(gate_size * k.input_size, scale);
  problem.inputs[kWeightHh] = draw(gate_size * p, scale);
  if (k.bias) problem.inputs[kBiasIh] = draw(gate_size, scale);
  if (k.bias) problem.inputs[kBiasHh] = draw(gate_size, scale);
  if (k.proj_size > 0) problem.inputs[kWeightHr] = draw(p * k.hidden_size, scale);
  problem.grad_output = draw(k.total_rows() * p, 1);
  problem.grad_h_n = draw(k.batch_size * p, 1);
  if (k.has_c()) problem.grad_c_n = draw(k.batch_size * k.hidden_size, 1);
  if (k.absent_grad == kGradOutput) problem.grad_output.clear();
  if (k.absent_grad == kGradHn) problem.grad_h_n.clear();
  if (k.absent_grad == kGradCn) problem.grad_c_n.clear();
  return problem;
}

double at_or_zero(const Doubles& values, int64_t i) { return values.empty() ? 0 : values[i]; }
double logistic(double x) { return 1 / (1 + std::exp(-x)); }

// The oracle: one sequence after the other, formulas as in torch's documentation.
class Oracle {
 public:
  Oracle(const Case& test_case, const Numbers& problem)
      : k(test_case), in(problem), H(k.hidden_size), P(k.output_size()), G(k.gates()) {
    expected.output.assign(k.total_rows() * P, 0);
    expected.h_n.assign(k.batch_size * P, 0);
    if (k.has_c()) expected.c_n.assign(k.batch_size * H, 0);
    for (int i = 0; i < kInputCount; ++i) expected.grads[i].assign(in.inputs[i].size(), 0);
    // The gradients of absent states are computed nevertheless.
    expected.grads[kH0].assign(k.batch_size * P, 0);
    if (k.has_c()) expected.grads[kC0].assign(k.batch_size * H, 0);
    for (int64_t b = 0; b < k.batch_size; ++b) run_sequence(b);
  }

  Expected expected;

 private:
  struct Step {
    int64_t row;
    Doubles h_prev, c_prev, gates, recurrent_n, c, h_raw;
  };

  void run_sequence(int64_t b) {
    const std::vector<int64_t> sizes = k.batch_sizes();
    std::vector<int64_t> rows;
    int64_t first = 0;
    for (int64_t size : sizes) {
      if (b < size) rows.push_back(first + b);
      first += size;
    }
    if (k.direction == Direction::kReverse) std::reverse(rows.begin(), rows.end());

    Doubles h(P), c(H);
    for (int64_t p = 0; p < P; ++p) h[p] = at_or_zero(in.inputs[kH0], b * P + p);
    for (int64_t u = 0; u < H; ++u) c[u] = at_or_zero(in.inputs[kC0], b * H + u);
    std::vector<Step> steps;
    for (int64_t row : rows) {
      steps.push_back(forward(row, h, c));
      c = steps.back().c;
      std::copy(h.begin(), h.end(), expected.output.begin() + row * P);
    }
    std::copy(h.begin(), h.end(), expected.h_n.begin() + b * P);
    if (k.has_c()) std::copy(c.begin(), c.end(), expected.c_n.begin() + b * H);

    Doubles dh(P), dc(H);
    for (int64_t p = 0; p < P; ++p) dh[p] = at_or_zero(in.grad_h_n, b * P + p);
    for (int64_t u = 0; u < H; ++u) dc[u] = at_or_zero(in.grad_c_n, b * H + u);
    for (size_t s = steps.size(); s-- > 0;) backward(steps[s], dh, dc);
    std::copy(dh.begin(), dh.end(), expected.grads[kH0].begin() + b * P);
    if (k.has_c()) std::copy(dc.begin(), dc.end(), expected.grads[kC0].begin() + b * H);
  }

  Step forward(int64_t row, Doubles& h, const Doubles& c) {
    Step step{row, h, c, Doubles(G * H), Doubles(H), Doubles(H), Doubles(H)};
    const int64_t I = k.input_size;
    for (int64_t u = 0; u < H; ++u) {
      double x[4], r[4];
      for (int64_t g = 0; g < G; ++g) {
        const int64_t j = g * H + u;
        x[g] = at_or_zero(in.inputs[kBiasIh], j);
        r[g] = at_or_zero(in.inputs[kBiasHh], j);
        for (int64_t i = 0; i < I; ++i) {
          x[g] += in.inputs[kWeightIh][j * I + i] * in.inputs[kX][row * I + i];
        }
        for (int64_t p = 0; p < P; ++p) r[g] += in.inputs[kWeightHh][j * P + p] * step.h_prev[p];
      }
      double* gate = &step.gates[u * G];
      switch (k.cell) {
        case CellKind::kRnnTanh:
          step.h_raw[u] = std::tanh(x[0] + r[0]);
          break;
        case CellKind::kRnnRelu:
          step.h_raw[u] = std::max(x[0] + r[0], 0.0);
          break;
        case CellKind::kLstm:
          for (int g = 0; g < 4; ++g) {
            gate[g] = g == 2 ? std::tanh(x[g] + r[g]) : logistic(x[g] + r[g]);
          }
          step.c[u] = gate[1] * c[u] + gate[0] * gate[2];
          step.h_raw[u] = gate[3] * std::tanh(step.c[u]);
          break;
        case CellKind::kGru:
          gate[0] = logistic(x[0] + r[0]);
          gate[1] = logistic(x[1] + r[1]);
          gate[2] = std::tanh(x[2] + gate[0] * r[2]);
          step.recurrent_n[u] = r[2];
          step.h_raw[u] = (1 - gate[1]) * gate[2] + gate[1] * step.h_prev[u];
          break;
      }
    }
    h = step.h_raw;
    if (k.proj_size > 0) {
      h.assign(P, 0);
      for (int64_t p = 0; p < P; ++p) {
        for (int64_t u = 0; u < H; ++u) h[p] += in.inputs[kWeightHr][p * H + u] * step.h_raw[u];
      }
    }
    return step;
  }

  // dh and dc: gradients of what the step hands on; replaced by those of what it was handed.
  void backward(const Step& step, Doubles& dh, Doubles& dc) {
    const int64_t I = k.input_size;
    for (int64_t p = 0; p < P; ++p) dh[p] += at_or_zero(in.grad_output, step.row * P + p);
    Doubles dh_raw = dh;
    if (k.proj_size > 0) {
      dh_raw.assign(H, 0);
      for (int64_t p = 0; p < P; ++p) {
        for (int64_t u = 0; u < H; ++u) {
          dh_raw[u] += dh[p] * in.inputs[kWeightHr][p * H + u];
          expected.grads[kWeightHr][p * H + u] += dh[p] * step.h_raw[u];
        }
      }
    }
    dh.assign(P, 0);
    for (int64_t u = 0; u < H; ++u) {
      double dx[4], dr[4];
      const double d = dh_raw[u];
      const double* gate = &step.gates[u * G];
      switch (k.cell) {
        case CellKind::kRnnTanh:
          dx[0] = dr[0] = d * (1 - step.h_raw[u] * step.h_raw[u]);
          break;
        case CellKind::kRnnRelu:
          dx[0] = dr[0] = step.h_raw[u] > 0 ? d : 0;
          break;
        case CellKind::kLstm: {
          const double t = std::tanh(step.c[u]);
          const double total = dc[u] + d * gate[3] * (1 - t * t);
          dx[0] = total * gate[2] * gate[0] * (1 - gate[0]);
          dx[1] = total * step.c_prev[u] * gate[1] * (1 - gate[1]);
          dx[2] = total * gate[0] * (1 - gate[2] * gate[2]);
          dx[3] = d * t * gate[3] * (1 - gate[3]);
          std::copy(dx, dx + 4, dr);
          dc[u] = total * gate[1];
          break;
        }
        case CellKind::kGru:
          dx[2] = d * (1 - gate[1]) * (1 - gate[2] * gate[2]);
          dx[1] = d * (step.h_prev[u] - gate[2]) * gate[1] * (1 - gate[1]);
          dx[0] = dx[2] * step.recurrent_n[u] * gate[0] * (1 - gate[0]);
          dr[0] = dx[0];
          dr[1] = dx[1];
          dr[2] = dx[2] * gate[0];
          dh[u] += d * gate[1];
          break;
      }
      for (int64_t g = 0; g < G; ++g) {
        const int64_t j = g * H + u;
        for (int64_t i = 0; i < I; ++i) {
          expected.grads[kX][step.row * I + i] += dx[g] * in.inputs[kWeightIh][j * I + i];
          expected.grads[kWeightIh][j * I + i] += dx[g] * in.inputs[kX][step.row * I + i];
        }
        for (int64_t p = 0; p < P; ++p) {
          dh[p] += dr[g] * in.inputs[kWeightHh][j * P + p];
          expected.grads[kWeightHh][j * P + p] += dr[g] * step.h_prev[p];
        }
        if (!k.bias) continue;
        expected.grads[kBiasIh][j] += dx[g];
        expected.grads[kBiasHh][j] += dr[g];
      }
    }
  }

  const Case& k;
  const Numbers& in;
  const int64_t H, P, G;
};

// Rounding of the storage type, once a step and once for each of the sums, against values
// of size `scale`.
double tolerance(const Case& k, double scale) {
  const double eps[] = {1.2e-7, 2.3e-16, 7.9e-3, 9.8e-4};
  return eps[static_cast<int>(k.dtype)] * static_cast<double>(k.seq_len + 8) * (1 + scale);
}

bool is_close(const Case& k, const char* name, const Buffer& actual, const Doubles& expected,
              int64_t cols, int64_t row_stride) {
  double scale = 0;
  for (double value : expected) scale = std::max(scale, std::fabs(value));
  const double limit = tolerance(k, scale);
  for (int64_t i = 0; i < static_cast<int64_t>(expected.size()); ++i) {
    const double value = actual.get(i / cols * row_stride + i % cols);
    if (std::isnan(expected[i]) ? std::isnan(value) : std::fabs(value - expected[i]) <= limit) {
      continue;
    }
    std::printf("%s: %s[%d] is %.9g, expected %.9g within %.3g\n", k.text().c_str(), name, int(i),
                value, expected[i], limit);
    return false;
  }
  return true;
}

// Everything that one run of a case writes.
struct Run {
  std::vector<Buffer> buffers;
};

bool run_case(const Case& k, Isa isa, Run* run = nullptr) {
  constexpr int64_t kGap = 3;  // columns between rows of output that belong to another layer
  const unsigned seed = 7;
  const Numbers problem = make_problem(k, seed);
  const Oracle oracle(k, problem);
  const int64_t p = k.output_size(), rows = k.total_rows(), output_row_stride = p + kGap;
  const int width = cell_info(k.cell).saved_width();

  std::vector<Buffer> in;
  for (const Doubles& values : problem.inputs) in.emplace_back(k.dtype, values);
  const auto input = [&](int i) { return problem.inputs[i].empty() ? nullptr : in[i].data(); };
  const std::vector<int64_t> batch_sizes = k.batch_sizes();
  const LayerShape shape{
      k.cell, k.dtype,      k.direction,   k.seq_len,   k.batch_size,
      rows,   k.input_size, k.hidden_size, k.proj_size, k.packed ? batch_sizes.data() : nullptr};
  const LayerWeights weights{in[kWeightIh].data(), in[kWeightHh].data(), input(kBiasIh),
                             input(kBiasHh), input(kWeightHr)};
  Plan plan{};
  plan.schedule = k.schedule;
  plan.split = k.split;
  plan.num_threads = k.threads;
  plan.multiplies_input = k.multiplies_input;
  plan.chunk_steps = k.chunk_steps;

  Buffer output(k.dtype, rows * output_row_stride), h_n(k.dtype, k.batch_size * p);
  Buffer c_n(k.dtype, k.batch_size * k.hidden_size);
  Buffer saved(k.dtype, rows * width * k.hidden_size);
  TestRuntime runtime(k.concurrent);
  const LayerForwardArgs forward{shape,
                                 weights,
                                 input(kX),
                                 input(kH0),
                                 input(kC0),
                                 output.data(),
                                 output_row_stride,
                                 h_n.data(),
                                 k.has_c() ? c_n.data() : nullptr,
                                 k.training ? saved.data() : nullptr};
  if (!layer_forward_cpu(forward, plan, isa, runtime).ok || last_isa() != isa) return false;
  const Expected& expected = oracle.expected;
  bool ok = is_close(k, "output", output, expected.output, p, output_row_stride) &&
            is_close(k, "h_n", h_n, expected.h_n, p, p) &&
            is_close(k, "c_n", c_n, expected.c_n, k.hidden_size, k.hidden_size);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = p; i < output_row_stride; ++i) {
      ok = ok && std::isnan(output.get(row * output_row_stride + i));
    }
  }
  if (!ok || !k.training) return ok;

  Buffer grad_output(k.dtype, problem.grad_output);
  Buffer grad_h_n(k.dtype, problem.grad_h_n), grad_c_n(k.dtype, problem.grad_c_n);
  std::vector<Buffer> grads;
  for (int i = 0; i < kInputCount; ++i) {
    grads.emplace_back(k.dtype, static_cast<int64_t>(expected.grads[i].size()));
  }
  if (k.accumulate) grads[kX].fill(1);
  const auto grad = [&](int i) {
    return i == k.absent_grad || grads[i].size() == 0 ? nullptr : grads[i].data();
  };
  const auto given = [](Buffer& buffer) { return buffer.size() == 0 ? nullptr : buffer.data(); };
  const LayerBackwardArgs backward{
      shape,           weights,           input(kX),       input(kH0),         input(kC0),
      output.data(),   output_row_stride, saved.data(),    given(grad_output), p,
      given(grad_h_n), given(grad_c_n),   grad(kX),        k.accumulate,       grad(kH0),
      grad(kC0),       grad(kWeightIh),   grad(kWeightHh), grad(kBiasIh),      grad(kBiasHh),
      grad(kWeightHr)};
  if (!layer_backward_cpu(backward, plan, isa, runtime).ok || last_isa() != isa) return false;
  const char* names[] = {"grad_input",     "grad_h_0",     "grad_c_0",     "grad_weight_ih",
                         "grad_weight_hh", "grad_bias_ih", "grad_bias_hh", "grad_weight_hr"};
  for (int i = 0; i < kInputCount; ++i) {
    if (i == k.absent_grad) continue;
    Doubles values = expected.grads[i];
    if (i == kX && k.accumulate) {
      for (double& value : values) value += 1;
    }
    ok = is_close(k, names[i], grads[i], values, 1, 1) && ok;
  }
  if (run != nullptr) {
    run->buffers.clear();
    run->buffers.push_back(std::move(output));
    run->buffers.push_back(std::move(h_n));
    for (Buffer& buffer : grads) run->buffers.push_back(std::move(buffer));
  }
  return ok;
}

constexpr Isa kAllIsas[] = {Isa::kGeneric, Isa::kAvx2, Isa::kAvx512};
constexpr CellKind kAllCells[] = {CellKind::kRnnTanh, CellKind::kRnnRelu, CellKind::kLstm,
                                  CellKind::kGru};
constexpr DType kAllDTypes[] = {DType::kFloat32, DType::kFloat64, DType::kBFloat16,
                                DType::kFloat16};
constexpr Direction kDirections[] = {Direction::kForward, Direction::kReverse};

// The isa each test should run on: all that the machine has.
template <class Body>
void for_each_isa(const Body& body) {
  for (Isa isa : kAllIsas) {
    if (isa_supported(isa)) body(isa);
  }
}

struct Way {
  Schedule schedule;
  Split split;
  int threads;
  bool concurrent;
};
constexpr Way kWays[] = {
    {Schedule::kPerStep, Split::kRows, 1, true},
    {Schedule::kPerStep, Split::kRows, 3, false},
    {Schedule::kPersistent, Split::kRows, 1, true},
    {Schedule::kPersistent, Split::kRows, 3, false},
    {Schedule::kPersistent, Split::kUnits, 1, true},
    {Schedule::kPersistent, Split::kUnits, 2, true},
    {Schedule::kPersistent, Split::kUnits, 3, true},
};

void set_way(const Way& way, Case* k) {
  k->schedule = way.schedule;
  k->split = way.split;
  k->threads = way.threads;
  k->concurrent = way.concurrent;
}

// Body gets every cell with every way to run it; LSTM also with projection.
template <class Body>
void for_each_cell_and_way(const Body& body) {
  for (CellKind cell : kAllCells) {
    for (int projected = 0; projected <= (cell == CellKind::kLstm ? 1 : 0); ++projected) {
      for (const Way& way : kWays) {
        Case k;
        k.cell = cell;
        k.proj_size = projected ? 4 : 0;
        set_way(way, &k);
        body(k);
        if (k.schedule != Schedule::kPersistent || cell_info(cell).split) continue;
        k.multiplies_input = true;
        body(k);
      }
    }
  }
}

}  // namespace

TEST(layer_matches_plain_loops_for_every_dtype_direction_and_option) {
  for_each_isa([](Isa isa) {
    for_each_cell_and_way([&](Case k) {
      for (DType dtype : kAllDTypes) {
        for (Direction direction : kDirections) {
          for (int bits = 0; bits < 16; ++bits) {
            k.dtype = dtype;
            k.direction = direction;
            k.packed = bits & 1;
            k.bias = bits & 2;
            k.states = bits & 4;
            k.training = bits & 8;
            CHECK(run_case(k, isa));
          }
        }
      }
    });
  });
}

TEST(layer_matches_plain_loops_for_sizes_around_the_tiles) {
  for_each_isa([](Isa isa) {
    for_each_cell_and_way([&](Case k) {
      for (int64_t hidden_size : {1, 8, 9, 16, 17, 31, 33, 67}) {
        for (int64_t batch_size : {1, 2, 6, 7, 14, 15}) {
          k.hidden_size = hidden_size;
          k.batch_size = batch_size;
          k.packed = batch_size == 15;
          k.direction = batch_size == 7 ? Direction::kReverse : Direction::kForward;
          k.seq_len = 3;
          k.chunk_steps = 2;
          k.proj_size = k.proj_size > 0 && hidden_size > 1 ? 1 + hidden_size / 2 : 0;
          CHECK(run_case(k, isa));
        }
      }
    });
  });
}

TEST(layer_matches_plain_loops_beyond_the_blocks_of_the_matrix_products) {
  for_each_isa([](Isa isa) {
    Case k;
    set_way({Schedule::kPersistent, Split::kUnits, 2, true}, &k);
    k.hidden_size = 270;  // 1080 gates: more than a block, of rows and of products summed up
    k.input_size = 33;
    k.batch_size = 2;
    k.seq_len = 2;
    CHECK(run_case(k, isa));
    k.hidden_size = 5;
    k.batch_size = 130;
    k.seq_len = 9;
    k.chunk_steps = 9;
    CHECK(run_case(k, isa));
  });
}

TEST(layer_matches_plain_loops_for_lengths_and_chunks) {
  for_each_isa([](Isa isa) {
    for_each_cell_and_way([&](Case k) {
      for (int64_t seq_len : {1, 2, 5, 11}) {
        for (int64_t chunk_steps : {1, 2, 100}) {
          for (Direction direction : kDirections) {
            for (int packed = 0; packed < 2; ++packed) {
              k.seq_len = seq_len;
              k.chunk_steps = chunk_steps;
              k.direction = direction;
              k.packed = packed;
              k.batch_size = 5;
              CHECK(run_case(k, isa));
            }
          }
        }
      }
    });
  });
}

TEST(gradients_may_be_absent_or_accumulated) {
  for_each_isa([](Isa isa) {
    for_each_cell_and_way([&](Case k) {
      for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
        for (Direction direction : kDirections) {
          k.dtype = dtype;
          k.direction = direction;
          k.packed = true;
          for (k.absent_grad = -1; k.absent_grad < kGradEnd; ++k.absent_grad) {
            k.accumulate = k.absent_grad == -1;
            CHECK(run_case(k, isa));
          }
        }
      }
    });
  });
}

TEST(nan_goes_on_in_time_and_stays_in_its_sequence) {
  for_each_isa([](Isa isa) {
    for_each_cell_and_way([&](Case k) {
      k.batch_size = 7;
      k.nan_row = k.batch_size + 2;
      k.training = false;
      for (DType dtype : kAllDTypes) {
        k.dtype = dtype;
        CHECK(run_case(k, isa));
      }
    });
  });
}

TEST(subnormal_numbers_are_the_callers_own_again) {
  volatile float tiny = std::numeric_limits<float>::min();
  for_each_isa([&](Isa isa) {
    for_each_cell_and_way([&](const Case& k) {
      CHECK(run_case(k, isa));
      CHECK(tiny / 4 > 0);
    });
  });
}

TEST(empty_batch_and_empty_input_work) {
  for_each_isa([](Isa isa) {
    for_each_cell_and_way([&](Case k) {
      k.input_size = 0;
      CHECK(run_case(k, isa));
      k.batch_size = 0;
      CHECK(run_case(k, isa));
      k.input_size = 3;
      CHECK(run_case(k, isa));
    });
  });
}

TEST(same_inputs_give_same_bits) {
  for_each_isa([](Isa isa) {
    for_each_cell_and_way([&](Case k) {
      k.hidden_size = 41;
      k.batch_size = 9;
      k.proj_size = k.proj_size > 0 ? 23 : 0;
      Run first, second;
      const bool ran = run_case(k, isa, &first) && run_case(k, isa, &second);
      CHECK(ran);
      if (!ran) return;
      for (size_t i = 0; i < first.buffers.size(); ++i) {
        CHECK(first.buffers[i].same_bits(second.buffers[i]));
      }
    });
  });
}

TEST(forcing_an_isa_returns_it_or_says_why_not) {
  Isa isa = Isa::kGeneric;
  for (Isa wanted : kAllIsas) {
    const Status status = select_isa(isa_name(wanted), &isa);
    CHECK(status.ok == isa_supported(wanted));
    if (status.ok) CHECK(isa == wanted);
    if (!status.ok) CHECK(std::strstr(status.message, "generic") != nullptr);
  }
  CHECK(!select_isa("sse9", &isa).ok);
  CHECK(select_isa(nullptr, &isa).ok && isa_supported(isa));
}

CHECK_MAIN()
