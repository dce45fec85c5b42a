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

// One direction. `input` and `grad_output` hold the rows of each step, in the order in which the
// direction takes them; weights and states are this direction's own.
template <class Cell>
struct Sweep {
  struct Step {
    Tensor h_prev, h_raw;  // h_raw: before the projection
    TensorValues<Cell::kStates> prev, next;
    TensorValues<Cell::kSaved> saved;
  };

  std::vector<Tensor> input, grad_output;
  Tensor weights[kWeightCount];
  Tensor h, c;    // the states, forward
  Tensor dh, dc;  // their gradients, backward
  std::vector<Step> steps;
  std::vector<Tensor> dx;  // gradients of the steps' rows of input
  Tensor dweights[kWeightCount];

  void forward() {
    for (const Tensor& x : input) {
      Step step;
      step.h_prev = first_rows(h, x);
      step.prev[0] = step.h_prev;
      if constexpr (Cell::kStates == 2) step.prev[1] = first_rows(c, x);
      Cell::forward(
          split_gates<Cell::kGates>(at::linear(x, weights[kWeightIh], weights[kBiasIh])),
          split_gates<Cell::kGates>(at::linear(step.h_prev, weights[kWeightHh], weights[kBiasHh])),
          TensorValues<Cell::kParams>(), step.prev, step.next, step.saved);
      step.h_raw = step.next[0].tensor;
      const Tensor& weight_hr = weights[kWeightHr];
      h = replace_rows(h, weight_hr.defined() ? at::linear(step.h_raw, weight_hr) : step.h_raw);
      if constexpr (Cell::kStates == 2) c = replace_rows(c, step.next[1].tensor);
      steps.push_back(std::move(step));
    }
  }

  void backward() {
    dx.resize(steps.size());
    for (size_t s = steps.size(); s-- > 0;) {
      const Step& step = steps[s];
      Tensor dh_step = first_rows(dh, input[s]);
      if (!grad_output.empty()) dh_step = dh_step + grad_output[s];
      if (weights[kWeightHr].defined()) {
        add(kWeightHr, dh_step.t().matmul(step.h_raw));
        dh_step = dh_step.matmul(weights[kWeightHr]);
      }
      TensorValues<Cell::kStates> dnext, dprev;
      TensorValues<Cell::kGates> dgates_x, dgates_r;
      TensorValues<Cell::kParams> dparams;
      dnext[0] = dh_step;
      if constexpr (Cell::kStates == 2) dnext[1] = first_rows(dc, input[s]);
      Cell::backward(step.saved, TensorValues<Cell::kParams>(), step.prev, step.next, dnext,
                     dgates_x, dgates_r, dprev, dparams);
      const Tensor gates_x = join_gates(dgates_x), gates_r = join_gates(dgates_r);
      add(kWeightIh, gates_x.t().matmul(input[s]));
      add(kWeightHh, gates_r.t().matmul(step.h_prev));
      add(kBiasIh, gates_x.sum(0));
      add(kBiasHh, gates_r.sum(0));
      dx[s] = gates_x.matmul(weights[kWeightIh]);
      dh = replace_rows(dh, gates_r.matmul(weights[kWeightHh]) + dprev[0].tensor);
      if constexpr (Cell::kStates == 2) dc = replace_rows(dc, dprev[1].tensor);
    }
  }

  void add(DirectionWeight weight, const Tensor& gradient) {
    Tensor& sum = dweights[weight];
    sum = sum.defined() ? sum + gradient : gradient;
  }
};

// The rows of each step, in torch's order.
std::vector<Tensor> split_steps(const Tensor& rows, const OptionalTensor& batch_sizes) {
  if (!batch_sizes.has_value()) return rows.unbind(0);
  const Tensor sizes = batch_sizes->contiguous();
  return rows.split_with_sizes(at::IntArrayRef(sizes.const_data_ptr<int64_t>(), sizes.numel()), 0);
}

Tensor join_steps(const std::vector<Tensor>& steps, const OptionalTensor& batch_sizes) {
  return batch_sizes.has_value() ? at::cat(steps, 0) : at::stack(steps, 0);
}

Tensor state_part(const OptionalTensor& state, int direction, const Tensor& first_step,
                  const c10::SymInt& width) {
  return state.has_value()
             ? state->select(0, direction)
             : at::zeros_symint({first_step.sym_size(0), width}, first_step.options());
}

template <class Cell>
LayerGrads layer_backward(const OutputGrads& grads, const LayerTensors& tensors,
                          const OptionalTensor& batch_sizes) {
  const int directions = tensors[weight_place(1, kWeightIh)].has_value() ? 2 : 1;
  const std::vector<Tensor> input = split_steps(*tensors[kInput], batch_sizes);
  LayerGrads result;
  std::vector<Tensor> dh_0, dc_0;
  for (int d = 0; d < directions; ++d) {
    Sweep<Cell> sweep;
    for (int i = 0; i < kWeightCount; ++i) {
      sweep.weights[i] = tensors[weight_place(d, i)].value_or(Tensor());
    }
    const auto h_size = sweep.weights[kWeightHh].sym_size(1);
    const auto c_size = sweep.weights[kWeightHh].sym_size(0) / Cell::kGates;
    sweep.input = input;
    if (grads[0].has_value()) {
      sweep.grad_output = split_steps(grads[0]->narrow_symint(-1, d * h_size, h_size), batch_sizes);
    }
    sweep.h = state_part(tensors[kH0], d, input[0], h_size);
    sweep.c = state_part(tensors[kC0], d, input[0], c_size);
    sweep.dh = state_part(grads[1], d, input[0], h_size);
    sweep.dc = state_part(grads[2], d, input[0], c_size);
    if (d == 1) {
      std::reverse(sweep.input.begin(), sweep.input.end());
      std::reverse(sweep.grad_output.begin(), sweep.grad_output.end());
    }
    sweep.forward();
    sweep.backward();
    if (d == 1) std::reverse(sweep.dx.begin(), sweep.dx.end());
    result[kInput] = defined_sum(result[kInput], join_steps(sweep.dx, batch_sizes));
    dh_0.push_back(sweep.dh);
    dc_0.push_back(sweep.dc);
    for (int i = 0; i < kWeightCount; ++i) {
      result[weight_place(d, i)] = sweep.dweights[i];
    }
  }
  result[kH0] = at::stack(dh_0);
  result[kC0] = at::stack(dc_0);
  return result;
}

}  // namespace

LayerGrads composite_layer_backward(std::string_view cell, const OutputGrads& grads,
                                    const LayerTensors& tensors,
                                    const OptionalTensor& batch_sizes) {
  return visit_cell(find_cell(std::string(cell).c_str())->kind, [&](auto tag) {
    return layer_backward<typename decltype(tag)::template type<TensorValue>>(grads, tensors,
                                                                              batch_sizes);
  });
}

}  // namespace fusedrnn
