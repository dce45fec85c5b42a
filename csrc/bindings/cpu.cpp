// The operators on the CPU, one call of the library for each direction, sequences of several
// lengths packed.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <exception>

#include "bindings/checks.h"
#include "bindings/chosen_plan.h"
#include "bindings/composed.h"
#include "bindings/cpu_torch_runtime.h"
#include "bindings/layer_args.h"
#include "bindings/packing.h"
#include "bindings/quantized.h"
#include "cpu/cpu_library.h"

namespace fusedrnn {
namespace {

// Calls run(direction, runtime) for each direction, as many at the same time as planned. No
// exception may leave the parallel region, so they wait for its end.
template <class Run>
void run_directions(int directions, const Plan& plan, const Run& run) {
  std::exception_ptr errors[2];
  auto body = [&](int thread_idx, int num_threads) {
    for (int direction = thread_idx; direction < directions; direction += num_threads) {
      try {
        TorchCpuRuntime runtime;
        check_status(run(direction, runtime));
      } catch (...) {
        errors[direction] = std::current_exception();
      }
    }
  };
  TorchCpuRuntime().parallel(plan.directions_at_once, body);
  for (const std::exception_ptr& error : errors) {
    if (error != nullptr) std::rethrow_exception(error);
  }
}

// Every direction of a layer without lengths, or packed.
void run_forward(const CheckedLayer& layer, bool save, const ForwardResult& result) {
  if (layer.total_rows == 0) return;
  const CpuPlan chosen = make_cpu_plan(to_problem(layer, save), Pass::kForward);
  if (layer.format != WeightFormat::kSame && chosen.plan.weights != Weights::kInPlace) {
    return run_forward(dequantize(layer), save, result);
  }
  run_directions(layer.directions, chosen.plan, [&](int direction, CpuRuntime& runtime) {
    return layer_forward_cpu(forward_args(layer, result, direction), chosen.plan, chosen.isa,
                             runtime);
  });
}

void run_backward(const CheckedLayer& layer, const CheckedGrads& given, const LayerGrads& result) {
  if (layer.total_rows == 0) {
    for (int place = kWeights; place < kResetH; ++place) {
      if (result[place].defined()) result[place].zero_();
    }
    return;
  }
  const Problem problem = to_problem(layer, true);
  const CpuPlan chosen = make_cpu_plan(problem, Pass::kBackward);
  Plan forward_plan{};
  if (layer.recompute > 0) forward_plan = make_cpu_plan(problem, Pass::kForward).plan;
  // At the same time, the second direction has a grad_input of its own, added in the end.
  Tensor of_second;
  if (chosen.plan.directions_at_once > 1 && result[kInput].defined()) {
    of_second = at::empty_like(result[kInput]);
  }
  run_directions(layer.directions, chosen.plan, [&](int direction, CpuRuntime& runtime) {
    LayerBackwardArgs args = backward_args(layer, given, result, direction);
    if (args.accumulate_grad_input && of_second.defined()) {
      args.grad_input = of_second.mutable_data_ptr();
      args.accumulate_grad_input = false;
    }
    return layer_backward_cpu(args, chosen.plan, forward_plan, chosen.isa, runtime);
  });
  if (of_second.defined()) result[kInput].add_(of_second);
}

bool needs_packing(const CheckedLayer& layer) {
  return layer.sequence.lengths.has_value() && layer.batch_size > 0;
}

ForwardResult forward(const CheckedLayer& layer, const Keep& keep) {
  const ForwardResult result = empty_forward_result(layer, keep);
  if (!needs_packing(layer)) {
    run_forward(layer, keep.save, result);
    return result;
  }
  const Packing packing(layer);
  const CheckedLayer packed = packing.pack(layer);
  ForwardResult rows = result;  // of `saved`, the first rows are used
  const auto options = layer.tensors[kInput]->options();
  rows.outputs[kHN] = at::empty(packed.h_shape(), options);
  rows.outputs[kCN] = at::empty(packed.c_shape(), options);
  run_forward(packed, keep.save, rows);
  packing.clear_padding(result.outputs[kOutput]);
  packing.scatter(rows.outputs[kHN], layer.tensors[kH0], result.outputs[kHN]);
  if (layer.cell.states == 2) {
    packing.scatter(rows.outputs[kCN], layer.tensors[kC0], result.outputs[kCN]);
    if (keep.return_c) packing.clear_padding(result.outputs[kC]);
  }
  return result;
}

ForwardResult layer_forward(const LayerGiven& given, const Keep& keep) {
  const CheckedLayer layer = check_layer(to_places(given), keep.recompute);
  if (layer.is_composed) return composed_forward(layer, keep);
  const ThreadsGuard threads_guard;
  ForwardResult result = forward(layer, keep);
  if (keep.save) keep_output(&result);
  return result;
}

Outputs quantized_forward(const LayerGiven& given, bool return_c) {
  const CheckedLayer layer = check_quantized_layer(given);
  const ThreadsGuard threads_guard;
  return forward(layer, {false, return_c, 0}).outputs;
}

LayerGrads layer_backward(const BackwardArgs& args) {
  const CheckedLayer layer =
      check_layer({&check_cell(args.cell), args.tensors, args.sequence, {}}, args.recompute);
  const CheckedGrads given = check_grads(layer, args);
  const GradMask& mask = args.mask;
  if (layer.is_composed) return composed_backward(layer, given, mask);
  const ThreadsGuard threads_guard;
  LayerGrads result = empty_grads(layer, mask);
  if (!needs_packing(layer)) {
    run_backward(layer, given, result);
    return result;
  }
  const Packing packing(layer);
  const CheckedLayer packed = packing.pack(layer);
  CheckedGrads given_rows = given;
  for (int place : {kHN, kCN}) {
    OptionalTensor& grad = given_rows.grads[place];
    if (grad.has_value()) grad = packing.select(*grad);
  }
  LayerGrads rows = result;
  constexpr int kStates[] = {kH0, kC0, kResetH, kResetC};
  for (int place : kStates) {
    if (mask[place]) rows[place] = at::empty_like(*packed.tensors[place]);
  }
  run_backward(packed, given_rows, rows);
  for (int place : {int{kInput}, int{kGradGatesX}, int{kGradGatesR}}) {
    if (mask[place]) packing.clear_padding(result[place]);
  }
  for (int place : kStates) {
    if (!mask[place]) continue;
    // A sequence of length 0 ends with the state that it began with.
    const OptionalTensor others = place == kH0   ? given.grads[kHN]
                                  : place == kC0 ? given.grads[kCN]
                                                 : std::nullopt;
    packing.scatter(rows[place], others, result[place]);
  }
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(fusedrnn, CPU, m) {
  m.impl("layer_forward", TORCH_FN(forward_kernel<layer_forward>));
  m.impl("layer_backward", TORCH_FN(backward_kernel<layer_backward>));
  m.impl("quantized_forward", TORCH_FN(quantized_kernel<quantized_forward>));
}

}  // namespace fusedrnn
