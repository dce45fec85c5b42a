// The oracle of a layer in one direction, in plain double loops, and what its tests share: random
// problems, buffers of each storage type, the comparison.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "cells/registry.h"
#include "common/args.h"
#include "math/half.h"

namespace oracle {

using namespace fusedrnn;

using Doubles = std::vector<double>;

// A layer of one direction, and what of it is asked for.
struct LayerCase {
  CellKind cell = kind_of<Lstm>;
  DType dtype = DType::kFloat32;
  Direction direction = Direction::kForward;
  int64_t seq_len = 4, batch_size = 3, input_size = 5, hidden_size = 7, proj_size = 0;
  bool packed = false, bias = true, states = true, training = true;
  bool lengths = false;     // rows end early, with NaN past their ends; not with packed
  bool reset = false;       // some states are replaced, by given ones if `states`
  bool steps_c = false;     // c of every step and its gradient
  bool grad_gates = false;  // gradients of the pre-activations
  int64_t recompute = 0;    // as in LayerShape
  bool accumulate = false;  // into grad_input
  int64_t nan_row = -1;     // row of the input with a NaN
  int absent_grad = -1;     // index of the gradient that is not wanted or not given
  int64_t chunk_steps = 3;
  bool tf32 = false;  // products of float32 may round what they multiply to TF32

  virtual ~LayerCase() = default;
  // How the case is to be run, in words.
  virtual std::string way() const = 0;

  int64_t gates() const { return cell_info(cell).gates; }
  int64_t params() const { return cell_info(cell).params; }
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
  // Whether rows have steps that they are not part of.
  bool is_padding(const std::vector<int64_t>& row_lengths, int64_t row) const {
    return !row_lengths.empty() && row / batch_size >= row_lengths[row % batch_size];
  }
  std::string text() const {
    const char* dtypes[] = {"float32", "float64", "bfloat16", "float16"};
    char line[512];
    std::snprintf(line, sizeof(line),
                  "%s %s %s %s T=%d B=%d I=%d H=%d P=%d packed=%d bias=%d states=%d training=%d "
                  "lengths=%d reset=%d c=%d gates=%d recompute=%d accumulate=%d absent=%d chunk=%d",
                  cell_info(cell).name, dtypes[static_cast<int>(dtype)],
                  direction == Direction::kForward ? "forward" : "reverse", way().c_str(),
                  int(seq_len), int(batch_size), int(input_size), int(hidden_size), int(proj_size),
                  packed, bias, states, training, lengths, reset, steps_c, grad_gates,
                  int(recompute), accumulate, absent_grad, int(chunk_steps));
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
  // Holds what is no number, in pairs of bytes.
  template <class T>
  static Buffer of_values(const std::vector<T>& values) {
    const size_t bytes = values.size() * sizeof(T);
    Buffer buffer(DType::kFloat16, static_cast<int64_t>((bytes + 1) / 2));
    if (bytes > 0) std::memcpy(buffer.data(), values.data(), bytes);
    return buffer;
  }
  Buffer copy() const {
    Buffer other(dtype_, count_);
    std::memcpy(other.bytes_.get(), bytes_.get(), count_ * dtype_bytes(dtype_));
    return other;
  }
  void* data() { return bytes_.get(); }
  DType dtype() const { return dtype_; }
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

// A value of a storage type as its accumulation type, and back.
inline double widen(double value) { return value; }
template <class S>
float widen(S value) {
  return to_float(value);
}
template <class S>
S narrow(accum_t<S> value) {
  if constexpr (std::is_same_v<S, double>) {
    return value;
  } else {
    return from_float<S>(value);
  }
}

// c = op(a) * op(b) + beta * c by plain loops; sums in the accumulation type of In.
template <class In, class Out>
void multiply(Transpose trans_a, Transpose trans_b, int64_t m, int64_t n, int64_t k,
              const void* a_void, int64_t lda, const void* b_void, int64_t ldb, double beta,
              void* c_void, int64_t ldc) {
  const In* a = static_cast<const In*>(a_void);
  const In* b = static_cast<const In*>(b_void);
  Out* c = static_cast<Out*>(c_void);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      accum_t<In> sum = 0;
      for (int64_t x = 0; x < k; ++x) {
        sum += widen(trans_a == Transpose::kYes ? a[x * lda + i] : a[i * lda + x]) *
               widen(trans_b == Transpose::kYes ? b[j * ldb + x] : b[x * ldb + j]);
      }
      c[i * ldc + j] = narrow<Out>(sum + (beta != 0 ? widen(c[i * ldc + j]) : 0));
    }
  }
}

// What is differentiable.
enum Input {
  kX,
  kH0,
  kC0,
  kWeightIh,
  kWeightHh,
  kBiasIh,
  kBiasHh,
  kWeightHr,
  kParams,
  kResetH,
  kResetC,
  kInputCount
};
constexpr const char* kGradNames[kInputCount] = {"grad_input",     "grad_h_0",       "grad_c_0",
                                                 "grad_weight_ih", "grad_weight_hh", "grad_bias_ih",
                                                 "grad_bias_hh",   "grad_weight_hr", "grad_params",
                                                 "grad_reset_h",   "grad_reset_c"};
// What else of backward's arguments may be absent.
enum GradOfResult {
  kGradOutput = kInputCount,
  kGradHn,
  kGradCn,
  kGradC,
  kGradGatesX,
  kGradGatesR,
  kGradEnd
};

struct Numbers {
  Doubles inputs[kInputCount];  // empty when absent
  Doubles grad_output, grad_h_n, grad_c_n, grad_c;
  std::vector<int64_t> lengths;
  std::vector<uint8_t> reset;
};

struct Expected {
  Doubles output, h_n, c_n, c;
  Doubles grads[kInputCount];
  Doubles grad_gates_x, grad_gates_r;
};

inline double round_to(DType dtype, double value) {
  Buffer one(dtype, 1);
  one.set(0, value);
  return one.get(0);
}

inline Numbers make_problem(const LayerCase& k, unsigned seed) {
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
  problem.inputs[kParams] = draw(k.params() * k.hidden_size, 1);
  problem.grad_output = draw(k.total_rows() * p, 1);
  problem.grad_h_n = draw(k.batch_size * p, 1);
  if (k.has_c()) problem.grad_c_n = draw(k.batch_size * k.hidden_size, 1);
  if (k.steps_c && k.has_c()) problem.grad_c = draw(k.total_rows() * k.hidden_size, 1);
  // These numbers are the same for each direction of a layer.
  std::mt19937 random_row(3);
  if (k.reset) {
    if (k.states) problem.inputs[kResetH] = draw(k.batch_size * p, 1);
    if (k.states && k.has_c()) problem.inputs[kResetC] = draw(k.batch_size * k.hidden_size, 1);
    for (int64_t i = 0; i < k.total_rows(); ++i) problem.reset.push_back(random_row() % 3 == 0);
  }
  if (k.lengths) {
    // One less than all, none, too many, one, less than none, then any.
    const int64_t first[] = {k.seq_len - 1, 0, k.seq_len + 2, 1, -3};
    for (int64_t b = 0; b < k.batch_size; ++b) {
      const auto any = static_cast<int64_t>(random_row() % static_cast<unsigned>(k.seq_len + 1));
      problem.lengths.push_back(b < 5 ? first[b] : any);
    }
    const auto spoil = [&](Doubles& values, int64_t width) {
      for (size_t i = 0; i < values.size(); ++i) {
        if (k.is_padding(problem.lengths, static_cast<int64_t>(i) / width)) {
          values[i] = std::numeric_limits<double>::quiet_NaN();
        }
      }
    };
    spoil(problem.inputs[kX], k.input_size);
    spoil(problem.grad_output, p);
    spoil(problem.grad_c, k.hidden_size);
  }
  if (k.absent_grad == kGradOutput) problem.grad_output.clear();
  if (k.absent_grad == kGradHn) problem.grad_h_n.clear();
  if (k.absent_grad == kGradCn) problem.grad_c_n.clear();
  if (k.absent_grad == kGradC) problem.grad_c.clear();
  return problem;
}

inline double at_or_zero(const Doubles& values, int64_t i) {
  return values.empty() ? 0 : values[i];
}

// A cell in double, whose values test_cells checks.
constexpr int kMostValues = 8;  // of one kind that a unit has
struct PlainCell {
  void (*forward)(const double* x, const double* r, const double* params, const double* prev,
                  double* next, double* saved);
  void (*backward)(const double* saved, const double* params, const double* prev,
                   const double* next, const double* dnext, double* dx, double* dr, double* dprev,
                   double* dparams);
};

template <int N>
Values<double, N> take(const double* from) {
  static_assert(N <= kMostValues, "more values than there is room for");
  Values<double, N> values{};
  std::copy(from, from + N, values.v);
  return values;
}
template <int N>
void put(const Values<double, N>& values, double* to) {
  std::copy(values.v, values.v + N, to);
}

inline PlainCell plain_cell(CellKind kind) {
  return visit_cell(kind, [](auto tag) {
    using C = typename decltype(tag)::template type<double>;
    PlainCell cell;
    cell.forward = [](const double* x, const double* r, const double* params, const double* prev,
                      double* next, double* saved) {
      Values<double, C::kStates> next_values;
      Values<double, C::kSaved> saved_values;
      C::forward(take<C::kGates>(x), take<C::kGates>(r), take<C::kParams>(params),
                 take<C::kStates>(prev), next_values, saved_values);
      put(next_values, next);
      put(saved_values, saved);
    };
    cell.backward = [](const double* saved, const double* params, const double* prev,
                       const double* next, const double* dnext, double* dx, double* dr,
                       double* dprev, double* dparams) {
      Values<double, C::kGates> dx_values, dr_values;
      Values<double, C::kStates> dprev_values;
      Values<double, C::kParams> dparams_values;
      C::backward(take<C::kSaved>(saved), take<C::kParams>(params), take<C::kStates>(prev),
                  take<C::kStates>(next), take<C::kStates>(dnext), dx_values, dr_values,
                  dprev_values, dparams_values);
      put(dx_values, dx);
      put(dr_values, dr);
      put(dprev_values, dprev);
      put(dparams_values, dparams);
    };
    return cell;
  });
}

// The oracle: one sequence after the other. From one step to the next h is rounded as in the
// output: else ReLU would take the other branch now and then.
class Oracle {
 public:
  Oracle(const LayerCase& test_case, const Numbers& problem)
      : k(test_case),
        in(problem),
        cell(plain_cell(k.cell)),
        H(k.hidden_size),
        P(k.output_size()),
        G(k.gates()),
        M(k.params()) {
    expected.output.assign(k.total_rows() * P, 0);
    expected.h_n.assign(k.batch_size * P, 0);
    if (k.has_c()) expected.c_n.assign(k.batch_size * H, 0);
    for (int i = 0; i < kInputCount; ++i) expected.grads[i].assign(in.inputs[i].size(), 0);
    // The gradients of absent states are computed nevertheless.
    expected.grads[kH0].assign(k.batch_size * P, 0);
    if (k.has_c()) expected.grads[kC0].assign(k.batch_size * H, 0);
    if (k.reset) expected.grads[kResetH].assign(k.batch_size * P, 0);
    if (k.reset && k.has_c()) expected.grads[kResetC].assign(k.batch_size * H, 0);
    if (k.steps_c && k.has_c()) expected.c.assign(k.total_rows() * H, 0);
    if (k.grad_gates) {
      expected.grad_gates_x.assign(k.total_rows() * G * H, 0);
      expected.grad_gates_r.assign(k.total_rows() * G * H, 0);
    }
    for (int64_t b = 0; b < k.batch_size; ++b) run_sequence(b);
  }

  Expected expected;

 private:
  struct Step {
    int64_t row;
    Doubles h_prev, c_prev, saved, c, h_raw;
  };

  void run_sequence(int64_t b) {
    const std::vector<int64_t> sizes = k.batch_sizes();
    std::vector<int64_t> rows;
    int64_t first = 0;
    for (int64_t size : sizes) {
      if (b < size && !k.is_padding(in.lengths, first + b)) rows.push_back(first + b);
      first += size;
    }
    if (k.direction == Direction::kReverse) std::reverse(rows.begin(), rows.end());

    Doubles h(P), c(H);
    for (int64_t p = 0; p < P; ++p) h[p] = at_or_zero(in.inputs[kH0], b * P + p);
    for (int64_t u = 0; u < H; ++u) c[u] = at_or_zero(in.inputs[kC0], b * H + u);
    std::vector<Step> steps;
    for (int64_t row : rows) {
      if (resets(row)) {
        for (int64_t p = 0; p < P; ++p) h[p] = at_or_zero(in.inputs[kResetH], b * P + p);
        for (int64_t u = 0; u < H; ++u) c[u] = at_or_zero(in.inputs[kResetC], b * H + u);
      }
      steps.push_back(forward(row, h, c));
      c = steps.back().c;
      for (double& value : h) value = round_to(k.dtype, value);
      std::copy(h.begin(), h.end(), expected.output.begin() + row * P);
      if (!expected.c.empty()) std::copy(c.begin(), c.end(), expected.c.begin() + row * H);
    }
    std::copy(h.begin(), h.end(), expected.h_n.begin() + b * P);
    if (k.has_c()) std::copy(c.begin(), c.end(), expected.c_n.begin() + b * H);

    Doubles dh(P), dc(H);
    for (int64_t p = 0; p < P; ++p) dh[p] = at_or_zero(in.grad_h_n, b * P + p);
    for (int64_t u = 0; u < H; ++u) dc[u] = at_or_zero(in.grad_c_n, b * H + u);
    for (size_t s = steps.size(); s-- > 0;) {
      backward(steps[s], dh, dc);
      if (!resets(steps[s].row)) continue;
      for (int64_t p = 0; p < P; ++p) expected.grads[kResetH][b * P + p] += dh[p];
      for (int64_t u = 0; u < H && k.has_c(); ++u) expected.grads[kResetC][b * H + u] += dc[u];
      dh.assign(P, 0);
      dc.assign(H, 0);
    }
    std::copy(dh.begin(), dh.end(), expected.grads[kH0].begin() + b * P);
    if (k.has_c()) std::copy(dc.begin(), dc.end(), expected.grads[kC0].begin() + b * H);
  }

  void take_params(int64_t u, double* params) const {
    for (int64_t m = 0; m < M; ++m) params[m] = in.inputs[kParams][m * H + u];
  }

  bool resets(int64_t row) const { return !in.reset.empty() && in.reset[row] != 0; }

  Step forward(int64_t row, Doubles& h, const Doubles& c) {
    Step step{row, h, c, Doubles(H * kMostValues), Doubles(H), Doubles(H)};
    const int64_t I = k.input_size;
    for (int64_t u = 0; u < H; ++u) {
      double x[kMostValues], r[kMostValues];
      for (int64_t g = 0; g < G; ++g) {
        const int64_t j = g * H + u;
        x[g] = at_or_zero(in.inputs[kBiasIh], j);
        r[g] = at_or_zero(in.inputs[kBiasHh], j);
        for (int64_t i = 0; i < I; ++i) {
          x[g] += in.inputs[kWeightIh][j * I + i] * in.inputs[kX][row * I + i];
        }
        for (int64_t p = 0; p < P; ++p) r[g] += in.inputs[kWeightHh][j * P + p] * step.h_prev[p];
      }
      const double prev[kMostValues] = {step.h_prev[k.proj_size > 0 ? 0 : u], step.c_prev[u]};
      double next[kMostValues], params[kMostValues];
      take_params(u, params);
      cell.forward(x, r, params, prev, next, &step.saved[u * kMostValues]);
      step.h_raw[u] = next[0];
      step.c[u] = next[1];
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
    for (int64_t u = 0; u < H; ++u) dc[u] += at_or_zero(in.grad_c, step.row * H + u);
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
      const double prev[kMostValues] = {step.h_prev[k.proj_size > 0 ? 0 : u], step.c_prev[u]};
      const double next[kMostValues] = {step.h_raw[u], step.c[u]};
      const double dnext[kMostValues] = {dh_raw[u], dc[u]};
      double params[kMostValues];
      take_params(u, params);
      double dx[kMostValues], dr[kMostValues], dprev[kMostValues], dparams[kMostValues];
      cell.backward(&step.saved[u * kMostValues], params, prev, next, dnext, dx, dr, dprev,
                    dparams);
      if (k.proj_size == 0) dh[u] += dprev[0];
      if (k.has_c()) dc[u] = dprev[1];
      for (int64_t m = 0; m < M; ++m) expected.grads[kParams][m * H + u] += dparams[m];
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
        if (k.grad_gates) {
          expected.grad_gates_x[step.row * G * H + j] = dx[g];
          expected.grad_gates_r[step.row * G * H + j] = dr[g];
        }
        if (!k.bias) continue;
        expected.grads[kBiasIh][j] += dx[g];
        expected.grads[kBiasHh][j] += dr[g];
      }
    }
  }

  const LayerCase& k;
  const Numbers& in;
  const PlainCell cell;
  const int64_t H, P, G, M;
};

// Rounding of the storage type, once a step and once for each of the sums, against values
// of size `scale`.
inline double tolerance(const LayerCase& k, double scale) {
  const double eps[] = {1.2e-7, 2.3e-16, 7.9e-3, 9.8e-4};
  // TF32 has as many bits as float16.
  const DType precision = k.tf32 && k.dtype == DType::kFloat32 ? DType::kFloat16 : k.dtype;
  return eps[static_cast<int>(precision)] * static_cast<double>(k.seq_len + 8) * (1 + scale);
}

// Element (row, col) of what is expected lies at offset + row * row_stride + col.
inline bool is_close(const LayerCase& k, const char* name, const Buffer& actual,
                     const Doubles& expected, int64_t cols, int64_t row_stride,
                     int64_t offset = 0) {
  double scale = 0;
  for (double value : expected) scale = std::max(scale, std::fabs(value));
  const double limit = tolerance(k, scale);
  for (int64_t i = 0; i < static_cast<int64_t>(expected.size()); ++i) {
    const double value = actual.get(offset + i / cols * row_stride + i % cols);
    const bool is_nan = k.nan_row >= 0 && std::isnan(expected[i]);
    if (is_nan ? std::isnan(value) : std::fabs(value - expected[i]) <= limit) continue;
    std::printf("%s: %s[%d] is %.9g, expected %.9g within %.3g\n", k.text().c_str(), name, int(i),
                value, expected[i], limit);
    return false;
  }
  return true;
}

constexpr DType kAllDTypes[] = {DType::kFloat32, DType::kFloat64, DType::kBFloat16,
                                DType::kFloat16};
constexpr Direction kDirections[] = {Direction::kForward, Direction::kReverse};

}  // namespace oracle
