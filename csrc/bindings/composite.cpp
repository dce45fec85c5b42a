#include "bindings/composite.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include <algorithm>
#include <string>
#include <vector>

#include "cells/registry.h"

namespace fusedrnn {
namespace {

// A tensor as the value type of a cell.
struct TensorValue {
  Tensor tensor;

  TensorValue() = default;
  TensorValue(Tensor value) : tensor(std::move(value)) {}  // NOLINT: implicit by design
  explicit TensorValue(float value) : tensor(at::scalar_tensor(value, at::kDouble)) {}

  TensorValue operator-() const { return tensor.neg(); }
  friend TensorValue operator+(const TensorValue& a, const TensorValue& b) {
    return a.tensor + b.tensor;
  }
  friend TensorValue operator-(const TensorValue& a, const TensorValue& b) {
    return a.tensor - b.tensor;
  }
  friend TensorValue operator*(const TensorValue& a, const TensorValue& b) {
    return a.tensor * b.tensor;
  }
  friend TensorValue exp(const TensorValue& a) { return a.tensor.exp(); }
  friend TensorValue tanh(const TensorValue& a) { return a.tensor.tanh(); }
  friend TensorValue sigmoid(const TensorValue& a) { return a.tensor.sigmoid(); }
  friend TensorValue relu(const TensorValue& a) { return a.tensor.relu(); }
  friend TensorValue step(const TensorValue& a) { return a.tensor.gt(0).to(a.tensor.dtype()); }
};

template <int N>
using TensorValues = Values<TensorValue, N>;

template <int N>
TensorValues<N> split_gates(const Tensor& gates) {
  TensorValues<N> values;
  const std::vector<Tensor> parts = gates.chunk(N, -1);
  for (int i = 0; i < N; ++i) values[i] = parts[i];
  return values;
}

template <int N>
Tensor join_gates(const TensorValues<N>& values) {
  std::vector<Tensor> parts;
  for (int i = 0; i < N; ++i) parts.push_back(values[i].tensor);
  return at::cat(parts, -1);
}

// The first rows of a state replaced. Rows beyond a step's own keep theirs: forward their
// sequences have ended, in reverse they have not begun.
Tensor replace_rows(const Tensor& state, const Tensor& first) {
  const auto rows = first.sym_size(0);
  return state.sym_size(0) == rows ? first
                                   : at::cat({first, state.slice_symint(0, rows, std::nullopt)}, 0);
}

Tensor first_rows(const Tensor& state, const Tensor& like) {
  return state.slice_symint(0, 0, like.sym_size(0));
}

Tensor defined_sum(const Tensor& a, const Tensor& b) { return a.defined() ? a + b : b; }

// a where the condition holds, else b; all of a without a condition.
Tensor choose(const Tensor& condition, const Tensor& a, const Tensor& b) {
  return condition.defined() ? at::where(condition, a, b) : a;
}
// a where the condition holds, else zeros, whatever a is there.
Tensor keep_where(const Tensor& condition, const Tensor& a) {
  return condition.defined() ? a.masked_fill(condition.logical_not(), 0) : a;
}

// One direction. Vectors hold the rows of each step, in the order in which the direction takes
// them; weights and states are this direction's own.
template <class Cell>
struct Sweep {
  struct Step {
    Tensor h_prev, h_raw;  // h_raw: before the projection
    TensorValues<Cell::kStates> prev, next;
    TensorValues<Cell::kSaved> saved;
  };

  std::vector<Tensor> input, grad_output, grad_c;
  std::vector<Tensor> valid;  // [rows, 1] bool: the step is not past the row's length; or empty
  std::vector<Tensor> reset;  // [rows, 1] bool, or empty
  Tensor weights[kWeightCount];
  Tensor h, c;              // the states, forward
  Tensor reset_h, reset_c;  // what replaces them
  Tensor dh, dc;            // their gradients, backward
  Tensor dreset_h, dreset_c;
  std::vector<Step> steps;
  std::vector<Tensor> output, all_c;           // of each step
  std::vector<Tensor> dx, dgates_x, dgates_r;  // gradients of each step's input and gates
  Tensor dweights[kWeightCount];

  Tensor valid_at(size_t s) const { return valid.empty() ? Tensor() : valid[s]; }

  void forward() {
    for (size_t s = 0; s < input.size(); ++s) {
      const Tensor x = keep_where(valid_at(s), input[s]);
      if (!reset.empty()) {
        h = replace_rows(h, at::where(reset[s], first_rows(reset_h, x), first_rows(h, x)));
        c = replace_rows(c, at::where(reset[s], first_rows(reset_c, x), first_rows(c, x)));
      }
      const Tensor h_before = first_rows(h, x), c_before = first_rows(c, x);
      Step step;
      // Rows that have ended run on zeros: a NaN in their states must not reach a gradient.
      step.h_prev = keep_where(valid_at(s), h_before);
      step.prev[0] = step.h_prev;
      if constexpr (Cell::kStates == 2) step.prev[1] = keep_where(valid_at(s), c_before);
      Cell::forward(
          split_gates<Cell::kGates>(at::linear(x, weights[kWeightIh], weights[kBiasIh])),
          split_gates<Cell::kGates>(at::linear(step.h_prev, weights[kWeightHh], weights[kBiasHh])),
          TensorValues<Cell::kParams>(), step.prev, step.next, step.saved);
      step.h_raw = step.next[0].tensor;
      const Tensor& weight_hr = weights[kWeightHr];
      const Tensor h_next = weight_hr.defined() ? at::linear(step.h_raw, weight_hr) : step.h_raw;
      output.push_back(keep_where(valid_at(s), h_next));
      h = replace_rows(h, choose(valid_at(s), h_next, h_before));
      if constexpr (Cell::kStates == 2) {
        all_c.push_back(keep_where(valid_at(s), step.next[1].tensor));
        c = replace_rows(c, choose(valid_at(s), step.next[1].tensor, c_before));
      }
      steps.push_back(std::move(step));
    }
  }

  void backward() {
    dx.resize(steps.size());
    dgates_x.resize(steps.size());
    dgates_r.resize(steps.size());
    for (size_t s = steps.size(); s-- > 0;) {
      const Step& step = steps[s];
      const Tensor x = keep_where(valid_at(s), input[s]);
      // What passes by rows that have ended flows on below.
      const Tensor dh_after = first_rows(dh, x);
      Tensor dh_step = dh_after;
      if (!grad_output.empty()) dh_step = dh_step + grad_output[s];
      dh_step = keep_where(valid_at(s), dh_step);
      if (weights[kWeightHr].defined()) {
        add(kWeightHr, dh_step.t().matmul(step.h_raw));
        dh_step = dh_step.matmul(weights[kWeightHr]);
      }
      TensorValues<Cell::kStates> dnext, dprev;
      TensorValues<Cell::kGates> dvalues_x, dvalues_r;
      TensorValues<Cell::kParams> dparams;
      dnext[0] = dh_step;
      Tensor dc_after;
      if constexpr (Cell::kStates == 2) {
        dc_after = first_rows(dc, x);
        dnext[1] = keep_where(valid_at(s), grad_c.empty() ? dc_after : dc_after + grad_c[s]);
      }
      Cell::backward(step.saved, TensorValues<Cell::kParams>(), step.prev, step.next, dnext,
                     dvalues_x, dvalues_r, dprev, dparams);
      const Tensor gates_x = dgates_x[s] = join_gates(dvalues_x);
      const Tensor gates_r = dgates_r[s] = join_gates(dvalues_r);
      add(kWeightIh, gates_x.t().matmul(x));
      add(kWeightHh, gates_r.t().matmul(step.h_prev));
      add(kBiasIh, gates_x.sum(0));
      add(kBiasHh, gates_r.sum(0));
      dx[s] = gates_x.matmul(weights[kWeightIh]);
      const Tensor dh_prev = gates_r.matmul(weights[kWeightHh]) + dprev[0].tensor;
      leave(s, choose(valid_at(s), dh_prev, dh_after), dh, dreset_h);
      if constexpr (Cell::kStates == 2) {
        leave(s, choose(valid_at(s), dprev[1].tensor, dc_after), dc, dreset_c);
      }
    }
  }

  // The gradient of a state that entered step s: it goes to the step before, or to what replaced
  // the state.
  void leave(size_t s, const Tensor& gradient, Tensor& dstate, Tensor& dreset) {
    if (reset.empty()) {
      dstate = replace_rows(dstate, gradient);
      return;
    }
    dstate = replace_rows(dstate, keep_where(reset[s].logical_not(), gradient));
    dreset = replace_rows(dreset, first_rows(dreset, gradient) + keep_where(reset[s], gradient));
  }

  void add(DirectionWeight weight, const Tensor& gradient) {
    Tensor& sum = dweights[weight];
    sum = sum.defined() ? sum + gradient : gradient;
  }

  // What is by step, in the order of time.
  void reverse() {
    for (auto* steps_of : {&input, &grad_output, &grad_c, &valid, &reset, &output, &all_c, &dx,
                           &dgates_x, &dgates_r}) {
      std::reverse(steps_of->begin(), steps_of->end());
    }
  }
};

// The rows of each step of a packed sequence; none for a padded one. Element by element, because
// torch.func's wrappers have no memory to read.
std::vector<int64_t> packed_sizes(const Sequence& sequence) {
  std::vector<int64_t> sizes;
  if (!sequence.batch_sizes.has_value()) return sizes;
  for (const Tensor& size : sequence.batch_sizes->unbind(0)) {
    sizes.push_back(size.item<int64_t>());
  }
  return sizes;
}

// The rows of each step, in torch's order.
std::vector<Tensor> split_steps(const Tensor& rows, const std::vector<int64_t>& sizes) {
  return sizes.empty() ? rows.unbind(0) : rows.split_with_sizes(sizes, 0);
}

Tensor join_steps(const std::vector<Tensor>& steps, const std::vector<int64_t>& sizes) {
  return sizes.empty() ? at::stack(steps, 0) : at::cat(steps, 0);
}

Tensor state_part(const OptionalTensor& state, int direction, const Tensor& first_step,
                  const c10::SymInt& width) {
  return state.has_value()
             ? state->select(0, direction)
             : at::zeros_symint({first_step.sym_size(0), width}, first_step.options());
}

int direction_count(const LayerTensors& tensors) {
  return tensors[weight_place(1, kWeightIh)].has_value() ? 2 : 1;
}

// The widths of h and c.
template <class Cell>
std::pair<c10::SymInt, c10::SymInt> state_sizes(const Sweep<Cell>& sweep) {
  const Tensor& weight_hh = sweep.weights[kWeightHh];
  return {weight_hh.sym_size(1), weight_hh.sym_size(0) / Cell::kGates};
}

// A direction that has not run.
template <class Cell>
Sweep<Cell> make_sweep(int direction, const LayerTensors& tensors, const Sequence& sequence,
                       const std::vector<int64_t>& sizes) {
  Sweep<Cell> sweep;
  for (int i = 0; i < kWeightCount; ++i) {
    sweep.weights[i] = tensors[weight_place(direction, i)].value_or(Tensor());
  }
  sweep.input = split_steps(*tensors[kInput], sizes);
  const Tensor& first_step = sweep.input[0];
  const auto [h_size, c_size] = state_sizes(sweep);
  sweep.h = state_part(tensors[kH0], direction, first_step, h_size);
  sweep.c = state_part(tensors[kC0], direction, first_step, c_size);
  if (sequence.reset.has_value()) {
    sweep.reset = split_steps(sequence.reset->unsqueeze(-1), sizes);
    sweep.reset_h = state_part(tensors[kResetH], direction, first_step, h_size);
    sweep.reset_c = state_part(tensors[kResetC], direction, first_step, c_size);
  }
  if (sequence.lengths.has_value()) {
    const Tensor times =
        at::arange(static_cast<int64_t>(sweep.input.size()), sequence.lengths->options());
    sweep.valid = times.unsqueeze(1).lt(*sequence.lengths).unsqueeze(-1).unbind(0);
    for (size_t s = 0; s < sweep.reset.size(); ++s) {
      sweep.reset[s] = sweep.reset[s].logical_and(sweep.valid[s]);
    }
  }
  return sweep;
}

template <class Cell>
ForwardResult layer_forward(const LayerTensors& tensors, const Sequence& sequence, bool return_c) {
  const std::vector<int64_t> sizes = packed_sizes(sequence);
  std::vector<Tensor> output, h_n, c_n, c;
  for (int d = 0; d < direction_count(tensors); ++d) {
    Sweep<Cell> sweep = make_sweep<Cell>(d, tensors, sequence, sizes);
    if (d == 1) sweep.reverse();
    sweep.forward();
    if (d == 1) sweep.reverse();
    output.push_back(join_steps(sweep.output, sizes));
    h_n.push_back(sweep.h);
    if constexpr (Cell::kStates == 2) {
      c_n.push_back(sweep.c);
      if (return_c) c.push_back(join_steps(sweep.all_c, sizes));
    }
  }
  const Tensor nothing = at::empty({0}, tensors[kInput]->options());
  return {{at::cat(output, -1), at::stack(h_n), c_n.empty() ? nothing : at::stack(c_n),
           c.empty() ? nothing : at::stack(c)},
          nothing};
}

template <class Cell>
LayerGrads layer_backward(const OutputGrads& grads, const LayerTensors& tensors,
                          const Sequence& sequence) {
  const std::vector<int64_t> sizes = packed_sizes(sequence);
  LayerGrads result;
  std::vector<Tensor> dh_0, dc_0, dreset_h, dreset_c, dgates_x, dgates_r;
  for (int d = 0; d < direction_count(tensors); ++d) {
    Sweep<Cell> sweep = make_sweep<Cell>(d, tensors, sequence, sizes);
    const Tensor first_step = sweep.input[0];
    const auto [h_size, c_size] = state_sizes(sweep);
    if (grads[kOutput].has_value()) {
      sweep.grad_output = split_steps(grads[kOutput]->narrow_symint(-1, d * h_size, h_size), sizes);
    }
    if (grads[kC].has_value()) sweep.grad_c = split_steps(grads[kC]->select(0, d), sizes);
    sweep.dh = state_part(grads[kHN], d, first_step, h_size);
    sweep.dc = state_part(grads[kCN], d, first_step, c_size);
    if (!sweep.reset.empty()) {
      sweep.dreset_h = at::zeros_like(sweep.dh);
      sweep.dreset_c = at::zeros_like(sweep.dc);
    }
    if (d == 1) sweep.reverse();
    sweep.forward();
    sweep.backward();
    if (d == 1) sweep.reverse();
    result[kInput] = defined_sum(result[kInput], join_steps(sweep.dx, sizes));
    dh_0.push_back(sweep.dh);
    dc_0.push_back(sweep.dc);
    if (!sweep.reset.empty()) {
      dreset_h.push_back(sweep.dreset_h);
      dreset_c.push_back(sweep.dreset_c);
    }
    dgates_x.push_back(join_steps(sweep.dgates_x, sizes));
    dgates_r.push_back(join_steps(sweep.dgates_r, sizes));
    for (int i = 0; i < kWeightCount; ++i) {
      result[weight_place(d, i)] = sweep.dweights[i];
    }
  }
  result[kH0] = at::stack(dh_0);
  result[kC0] = at::stack(dc_0);
  if (!dreset_h.empty()) {
    result[kResetH] = at::stack(dreset_h);
    result[kResetC] = at::stack(dreset_c);
  }
  result[kGradGatesX] = at::stack(dgates_x);
  result[kGradGatesR] = at::stack(dgates_r);
  return result;
}

}  // namespace

ForwardResult composite_layer_forward(std::string_view cell, const LayerTensors& tensors,
                                      const Sequence& sequence, bool return_c) {
  return visit_cell(find_cell(std::string(cell).c_str())->kind, [&](auto tag) {
    return layer_forward<typename decltype(tag)::template type<TensorValue>>(tensors, sequence,
                                                                             return_c);
  });
}

LayerGrads composite_layer_backward(std::string_view cell, const OutputGrads& grads,
                                    const LayerTensors& tensors, const Sequence& sequence) {
  return visit_cell(find_cell(std::string(cell).c_str())->kind, [&](auto tag) {
    return layer_backward<typename decltype(tag)::template type<TensorValue>>(grads, tensors,
                                                                              sequence);
  });
}

}  // namespace fusedrnn
