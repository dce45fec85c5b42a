#include "bindings/composite.h"

#include <algorithm>
#include <vector>

#include "bindings/checks.h"
#include "cells/registry.h"

namespace fusedrnn {
namespace {

template <int N>
using DualValues = Values<Dual, N>;

template <int N>
DualValues<N> split_gates(const Dual& gates) {
  DualValues<N> values;
  const auto parts = split(gates, [](const Tensor& t) { return t.chunk(N, -1); });
  for (int i = 0; i < N; ++i) values[i] = parts[i];
  return values;
}

// Splits params [N * H] into N of [H]. A cell without params has undefined ones.
template <int N>
DualValues<N> split_params(const Dual& params) {
  if constexpr (N == 0) {
    return {};
  } else {
    return split_gates<N>(params);
  }
}

template <int N>
Dual join_gates(const DualValues<N>& values) {
  return cat({values.v, values.v + N}, -1);
}

// The state with its first rows replaced. Rows beyond a step's own keep theirs: forward their
// sequences have ended, in reverse they have not begun.
Dual replace_rows(const Dual& state, const Dual& first) {
  const auto rows = first.value.sym_size(0);
  if (state.value.sym_size(0) == rows) return first;
  const auto others = [&](const Tensor& t) { return t.slice_symint(0, rows, std::nullopt); };
  return cat({first, state.map(others)}, 0);
}

Dual first_rows(const Dual& state, const Dual& like) {
  return state.map([&](const Tensor& t) { return t.slice_symint(0, 0, like.value.sym_size(0)); });
}

// a where the condition holds, else b; all of a without a condition.
Dual choose(const Tensor& condition, const Dual& a, const Dual& b) {
  return condition.defined() ? where(condition, a, b) : a;
}
// a where the condition holds, else zeros, whatever a is there.
Dual keep_where(const Tensor& condition, const Dual& a) {
  if (!condition.defined()) return a;
  return a.map([&](const Tensor& t) { return t.masked_fill(condition.logical_not(), 0); });
}

Dual select(const Dual& tensor, int64_t dim, int64_t index) {
  return tensor.map([&](const Tensor& t) { return t.select(dim, index); });
}

// One direction of a layer. Vectors hold the rows of each step, in the order in which the direction
// takes them; weights and states are this direction's own.
template <class Cell>
struct Sweep {
  struct Step {
    Dual h_prev, h_raw;  // h_raw: before the projection
    DualValues<Cell::kStates> prev, next;
    DualValues<Cell::kSaved> saved;
  };

  std::vector<Dual> input, grad_output, grad_c;
  std::vector<Dual> gates_x, gates_r;  // slopes of the pre-activations as values; or empty
  std::vector<Tensor> valid;  // [rows, 1] bool: the step is not past the row's length; or empty
  std::vector<Tensor> reset;  // [rows, 1] bool, or empty
  Dual weights[kWeightCount];
  Dual h, c;              // the states, forward
  Dual reset_h, reset_c;  // what replaces them
  Dual dh, dc;            // their gradients, backward
  Dual dreset_h, dreset_c;
  std::vector<Step> steps;
  std::vector<Dual> output, all_c;           // of each step
  std::vector<Dual> dx, dgates_x, dgates_r;  // gradients of each step's input and gates
  Dual dweights[kWeightCount];

  Tensor valid_at(size_t s) const { return valid.empty() ? Tensor() : valid[s]; }

  Dual preactivation(size_t s, const Dual& rows, int weight, int bias,
                     const std::vector<Dual>& slopes) const {
    Dual gates = linear(rows, weights[weight], weights[bias]);
    if (!slopes.empty()) {
      gates.slope = defined_sum(gates.slope, keep_where(valid_at(s), slopes[s]).value);
    }
    return gates;
  }

  void forward() {
    for (size_t s = 0; s < input.size(); ++s) {
      const Dual x = keep_where(valid_at(s), input[s]);
      if (!reset.empty()) {
        h = replace_rows(h, where(reset[s], first_rows(reset_h, x), first_rows(h, x)));
        c = replace_rows(c, where(reset[s], first_rows(reset_c, x), first_rows(c, x)));
      }
      const Dual h_before = first_rows(h, x), c_before = first_rows(c, x);
      Step step;
      // Rows that have ended run on zeros: a NaN in their states must not reach a gradient.
      step.h_prev = keep_where(valid_at(s), h_before);
      step.prev[0] = step.h_prev;
      if constexpr (Cell::kStates == 2) step.prev[1] = keep_where(valid_at(s), c_before);
      Cell::forward(
          split_gates<Cell::kGates>(preactivation(s, x, kWeightIh, kBiasIh, gates_x)),
          split_gates<Cell::kGates>(preactivation(s, step.h_prev, kWeightHh, kBiasHh, gates_r)),
          split_params<Cell::kParams>(weights[kParams]), step.prev, step.next, step.saved);
      step.h_raw = step.next[0];
      const Dual& weight_hr = weights[kWeightHr];
      const Dual h_next = weight_hr.defined() ? linear(step.h_raw, weight_hr, {}) : step.h_raw;
      output.push_back(keep_where(valid_at(s), h_next));
      h = replace_rows(h, choose(valid_at(s), h_next, h_before));
      if constexpr (Cell::kStates == 2) {
        all_c.push_back(keep_where(valid_at(s), step.next[1]));
        c = replace_rows(c, choose(valid_at(s), step.next[1], c_before));
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
      const Dual x = keep_where(valid_at(s), input[s]);
      // The gradient that passes by rows which have ended is handed on by leave, below.
      const Dual dh_after = first_rows(dh, x);
      Dual dh_step = dh_after;
      if (!grad_output.empty()) dh_step = dh_step + grad_output[s];
      dh_step = keep_where(valid_at(s), dh_step);
      if (weights[kWeightHr].defined()) {
        add(kWeightHr, matmul(transpose(dh_step), step.h_raw));
        dh_step = matmul(dh_step, weights[kWeightHr]);
      }
      DualValues<Cell::kStates> dnext, dprev;
      DualValues<Cell::kGates> dvalues_x, dvalues_r;
      DualValues<Cell::kParams> dparams;
      dnext[0] = dh_step;
      Dual dc_after;
      if constexpr (Cell::kStates == 2) {
        dc_after = first_rows(dc, x);
        dnext[1] = keep_where(valid_at(s), grad_c.empty() ? dc_after : dc_after + grad_c[s]);
      }
      Cell::backward(step.saved, split_params<Cell::kParams>(weights[kParams]), step.prev,
                     step.next, dnext, dvalues_x, dvalues_r, dprev, dparams);
      if constexpr (Cell::kParams > 0) add(kParams, sum_columns(join_gates(dparams)));
      const Dual step_x = dgates_x[s] = join_gates(dvalues_x);
      const Dual step_r = dgates_r[s] = join_gates(dvalues_r);
      add(kWeightIh, matmul(transpose(step_x), x));
      add(kWeightHh, matmul(transpose(step_r), step.h_prev));
      add(kBiasIh, sum_columns(step_x));
      add(kBiasHh, sum_columns(step_r));
      dx[s] = matmul(step_x, weights[kWeightIh]);
      const Dual dh_prev = matmul(step_r, weights[kWeightHh]) + dprev[0];
      leave(s, choose(valid_at(s), dh_prev, dh_after), dh, dreset_h);
      if constexpr (Cell::kStates == 2) {
        leave(s, choose(valid_at(s), dprev[1], dc_after), dc, dreset_c);
      }
    }
  }

  // The gradient of a state that entered step s: it goes to the step before, or to what replaced
  // the state.
  void leave(size_t s, const Dual& gradient, Dual& dstate, Dual& dreset) {
    if (reset.empty()) {
      dstate = replace_rows(dstate, gradient);
      return;
    }
    dstate = replace_rows(dstate, keep_where(reset[s].logical_not(), gradient));
    dreset = replace_rows(dreset, first_rows(dreset, gradient) + keep_where(reset[s], gradient));
  }

  void add(DirectionWeight weight, const Dual& gradient) {
    dweights[weight] = defined_sum(dweights[weight], gradient);
  }

  // Reverses the order of all that is held by step.
  void reverse() {
    for (auto* steps_of : {&input, &grad_output, &grad_c, &gates_x, &gates_r, &output, &all_c, &dx,
                           &dgates_x, &dgates_r}) {
      std::reverse(steps_of->begin(), steps_of->end());
    }
    for (auto* steps_of : {&valid, &reset}) std::reverse(steps_of->begin(), steps_of->end());
  }
};

// The rows of each step of a packed sequence; none for a padded one. They are read one by one,
// because torch.func's wrappers have no memory to read.
std::vector<int64_t> packed_sizes(const Sequence& sequence) {
  std::vector<int64_t> sizes;
  if (!sequence.batch_sizes.has_value()) return sizes;
  for (const Tensor& size : sequence.batch_sizes->unbind(0)) {
    sizes.push_back(size.item<int64_t>());
  }
  return sizes;
}

// The rows of each step, in torch's order; none where there is no tensor.
std::vector<Tensor> split_rows(const Tensor& rows, const std::vector<int64_t>& sizes) {
  return sizes.empty() ? rows.unbind(0) : rows.split_with_sizes(sizes, 0);
}
std::vector<Dual> split_steps(const Dual& rows, const std::vector<int64_t>& sizes) {
  if (!rows.defined()) return {};
  return split(rows, [&](const Tensor& t) { return split_rows(t, sizes); });
}

Dual join_steps(const std::vector<Dual>& steps, const std::vector<int64_t>& sizes) {
  return sizes.empty() ? stack(steps) : cat(steps, 0);
}

Dual state_part(const Dual& state, int direction, const Tensor& first_step,
                const c10::SymInt& width) {
  if (state.defined()) return select(state, 0, direction);
  return at::zeros_symint({first_step.sym_size(0), width}, first_step.options());
}

int direction_count(const CompositeLayer& layer) {
  return layer.tensors[weight_place(1, kWeightIh)].defined() ? 2 : 1;
}

// The widths of h and c.
template <class Cell>
std::pair<c10::SymInt, c10::SymInt> state_sizes(const Sweep<Cell>& sweep) {
  const Tensor& weight_hh = sweep.weights[kWeightHh].value;
  return {weight_hh.sym_size(1), weight_hh.sym_size(0) / Cell::kGates};
}

// A direction that has not run.
template <class Cell>
Sweep<Cell> make_sweep(int direction, const CompositeLayer& layer, const Sequence& sequence,
                       const std::vector<int64_t>& sizes) {
  const DualTensors& tensors = layer.tensors;
  Sweep<Cell> sweep;
  for (int i = 0; i < kWeightCount; ++i) sweep.weights[i] = tensors[weight_place(direction, i)];
  sweep.input = split_steps(tensors[kInput], sizes);
  const Tensor& first_step = sweep.input[0].value;
  const auto [h_size, c_size] = state_sizes(sweep);
  sweep.h = state_part(tensors[kH0], direction, first_step, h_size);
  sweep.c = state_part(tensors[kC0], direction, first_step, c_size);
  if (layer.gates_x.defined()) {
    sweep.gates_x = split_steps(layer.gates_x.select(0, direction), sizes);
  }
  if (layer.gates_r.defined()) {
    sweep.gates_r = split_steps(layer.gates_r.select(0, direction), sizes);
  }
  if (sequence.reset.has_value()) {
    sweep.reset = split_rows(sequence.reset->unsqueeze(-1), sizes);
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

// The results of all directions, one after the other.
template <class Cell>
struct Joined {
  std::vector<Dual> output, h_n, c_n, c;

  void add(const Sweep<Cell>& sweep, const std::vector<int64_t>& sizes, bool return_c) {
    output.push_back(join_steps(sweep.output, sizes));
    h_n.push_back(sweep.h);
    if constexpr (Cell::kStates == 2) {
      c_n.push_back(sweep.c);
      if (return_c) c.push_back(join_steps(sweep.all_c, sizes));
    }
  }

  DualOutputs outputs() const {
    const Dual nothing = at::empty({0}, h_n[0].value.options());
    return {cat(output, -1), stack(h_n), c_n.empty() ? nothing : stack(c_n),
            c.empty() ? nothing : stack(c)};
  }
};

template <class Cell>
DualOutputs forward(const CompositeLayer& layer, const Sequence& sequence, bool return_c) {
  const std::vector<int64_t> sizes = packed_sizes(sequence);
  Joined<Cell> joined;
  for (int d = 0; d < direction_count(layer); ++d) {
    Sweep<Cell> sweep = make_sweep<Cell>(d, layer, sequence, sizes);
    if (d == 1) sweep.reverse();
    sweep.forward();
    if (d == 1) sweep.reverse();
    joined.add(sweep, sizes, return_c);
  }
  return joined.outputs();
}

template <class Cell>
CompositeBackward backward(const DualOutputs& grads, const CompositeLayer& layer,
                           const Sequence& sequence) {
  const std::vector<int64_t> sizes = packed_sizes(sequence);
  Joined<Cell> joined;
  DualGrads result;
  std::vector<Dual> dh_0, dc_0, dreset_h, dreset_c, dgates_x, dgates_r;
  for (int d = 0; d < direction_count(layer); ++d) {
    Sweep<Cell> sweep = make_sweep<Cell>(d, layer, sequence, sizes);
    const Tensor first_step = sweep.input[0].value;
    const auto [h_size, c_size] = state_sizes(sweep);
    const auto own_part = [&, width = h_size](const Tensor& t) {
      return t.narrow_symint(-1, d * width, width);
    };
    if (grads[kOutput].defined()) {
      sweep.grad_output = split_steps(grads[kOutput].map(own_part), sizes);
    }
    if (grads[kC].defined()) sweep.grad_c = split_steps(select(grads[kC], 0, d), sizes);
    sweep.dh = state_part(grads[kHN], d, first_step, h_size);
    sweep.dc = state_part(grads[kCN], d, first_step, c_size);
    if (!sweep.reset.empty()) {
      sweep.dreset_h = at::zeros_like(sweep.dh.value);
      sweep.dreset_c = at::zeros_like(sweep.dc.value);
    }
    if (d == 1) sweep.reverse();
    sweep.forward();
    sweep.backward();
    if (d == 1) sweep.reverse();
    joined.add(sweep, sizes, /*return_c=*/true);
    result[kInput] = defined_sum(result[kInput], join_steps(sweep.dx, sizes));
    dh_0.push_back(sweep.dh);
    dc_0.push_back(sweep.dc);
    if (!sweep.reset.empty()) {
      dreset_h.push_back(sweep.dreset_h);
      dreset_c.push_back(sweep.dreset_c);
    }
    dgates_x.push_back(join_steps(sweep.dgates_x, sizes));
    dgates_r.push_back(join_steps(sweep.dgates_r, sizes));
    for (int i = 0; i < kWeightCount; ++i) result[weight_place(d, i)] = sweep.dweights[i];
  }
  result[kH0] = stack(dh_0);
  result[kC0] = stack(dc_0);
  if (!dreset_h.empty()) {
    result[kResetH] = stack(dreset_h);
    result[kResetC] = stack(dreset_c);
  }
  result[kGradGatesX] = stack(dgates_x);
  result[kGradGatesR] = stack(dgates_r);
  return {joined.outputs(), result};
}

}  // namespace

DualOutputs composite_forward(std::string_view cell, const CompositeLayer& layer,
                              const Sequence& sequence, bool return_c) {
  return visit_cell(check_cell(cell).kind, [&](auto tag) {
    return forward<typename decltype(tag)::template type<Dual>>(layer, sequence, return_c);
  });
}

std::vector<Tensor> activate_gates(std::string_view cell, const Tensor& x, const Tensor& r,
                                   const OptionalTensor& h, const OptionalTensor& c,
                                   const OptionalTensor& params) {
  const CellInfo& info = check_cell(cell);
  for (const Tensor* side : {&x, &r}) {
    const char* name = side == &x ? "x" : "r";
    TORCH_CHECK(side->defined(), name, ": expected a tensor, got None");
    TORCH_CHECK(side->dim() > 0 && side->sym_size(-1) % info.gates == 0, name, ": expected ",
                info.gates, " gates of one size in the last dimension, got shape ",
                side->sym_sizes());
  }
  TORCH_CHECK(x.sym_sizes() == r.sym_sizes(), "r: expected x's shape ", x.sym_sizes(), ", got ",
              r.sym_sizes());
  TORCH_CHECK(x.is_floating_point() || x.is_complex(), "x: expected real or complex numbers, got ",
              x.dtype());
  const auto size = x.sym_size(-1) / info.gates;
  for (const OptionalTensor* state : {&h, &c}) {
    TORCH_CHECK(
        !state->has_value() || ((*state)->dim() == x.dim() && (*state)->sym_size(-1) == size),
        state == &h ? "h" : "c", ": expected ", x.dim(), " dimensions, the last of size ", size,
        ", got another shape");
  }
  TORCH_CHECK_VALUE(info.states == 2 || !c.has_value(), "c: expected None for cell ", info.name,
                    ", which has no c");
  TORCH_CHECK_VALUE(params.has_value() == (info.params > 0), "params: expected ",
                    info.params > 0 ? "a tensor" : "None", " for cell ", info.name);
  if (params.has_value()) {
    TORCH_CHECK(params->dim() == 1 && params->sym_size(0) == size * info.params,
                "params: expected shape (", info.params, " * hidden_size,) = (", size * info.params,
                ",), got ", params->sym_sizes());
  }
  return visit_cell(info.kind, [&](auto tag) {
    using C = typename decltype(tag)::template type<Dual>;
    DualValues<C::kStates> prev, next;
    DualValues<C::kSaved> saved;
    DualValues<C::kGates> activated;
    for (int i = 0; i < C::kStates; ++i) {
      const OptionalTensor& state = i == 0 ? h : c;
      prev[i] = state.has_value() ? *state : at::zeros({}, x.options());
    }
    C::forward(split_gates<C::kGates>(x), split_gates<C::kGates>(r),
               split_params<C::kParams>(params.value_or(Tensor())), prev, next, saved);
    C::gates(saved, next, activated);
    std::vector<Tensor> gates;
    for (int i = 0; i < C::kGates; ++i) gates.push_back(activated[i].value);
    return gates;
  });
}

CompositeBackward composite_backward(std::string_view cell, const DualOutputs& output_grads,
                                     const CompositeLayer& layer, const Sequence& sequence) {
  // A gradient is the conjugate derivative; the operators of a layer commute with conjugation.
  const auto conj = [](const Tensor& t) { return t.conj(); };
  CompositeLayer conjugate = layer;
  for (Dual& tensor : conjugate.tensors) {
    if (tensor.defined()) tensor = tensor.map(conj);
  }
  for (Tensor* slope : {&conjugate.gates_x, &conjugate.gates_r}) {
    if (slope->defined()) *slope = slope->conj();
  }
  CompositeBackward result = visit_cell(check_cell(cell).kind, [&](auto tag) {
    return backward<typename decltype(tag)::template type<Dual>>(output_grads, conjugate, sequence);
  });
  for (Dual& output : result.outputs) output = output.map(conj);
  return result;
}

}  // namespace fusedrnn
