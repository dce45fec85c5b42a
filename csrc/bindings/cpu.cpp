// The operators on the CPU, one call of the library for each direction, sequences of several
// lengths packed; and on devices without kernels.
#include <torch/library.h>

#include "bindings/checks.h"
#include "bindings/layer_args.h"
#include "bindings/packing.h"
#include "bindings/plan.h"
#include "bindings/runtime.h"
#include "cpu/kernels.h"

namespace fusedrnn {
namespace {

// Every direction of a layer without lengths.
void run_forward(const CheckedLayer& layer, bool save, const ForwardResult& result) {
  if (layer.total_rows == 0) return;
  const CpuPlan chosen = make_cpu_plan(to_problem(layer, save));
  for (int direction = 0; direction < layer.directions; ++direction) {
    TorchRuntime runtime;
    check_status(layer_forward_cpu(forward_args(layer, result, direction), chosen.plan, chosen.isa,
                                   runtime));
  }
}

void run_backward(const CheckedLayer& layer, const CheckedGrads& given, const LayerGrads& result) {
  if (layer.total_rows == 0) return;
  const CpuPlan chosen = make_cpu_plan(to_problem(layer, true));
  for (int direction = 0; direction < layer.directions; ++direction) {
    TorchRuntime runtime;
    check_status(layer_backward_cpu(backward_args(layer, given, result, direction), chosen.plan,
                                    chosen.isa, runtime));
  }
}

bool needs_packing(const CheckedLayer& layer) {
  return layer.sequence.lengths.has_value() && layer.batch_size > 0;
}

ForwardResult layer_forward(std::string_view cell, const LayerTensors& tensors,
                            const Sequence& sequence, const Keep& keep) {
  const ForkGuard fork_guard;
  const CheckedLayer layer = check_layer(cell, tensors, sequence, keep.recompute);
  const ForwardResult result = empty_forward_result(layer, keep);
  if (!needs_packing(layer)) {
    run_forward(layer, keep.save, result);
    return result;
  }
  const Packing packing(layer);
  const CheckedLayer packed = packing.pack(layer);
  ForwardResult rows = empty_forward_result(packed, {false, keep.return_c, keep.recompute});
  rows.saved = result.saved;  // its first rows are used, as backward expects them
  run_forward(packed, keep.save, rows);
  packing.scatter(rows.outputs[kOutput], result.outputs[kOutput]);
  packing.place(rows.outputs[kHN], layer.tensors[kH0], result.outputs[kHN]);
  if (layer.cell.states == 2) {
    packing.place(rows.outputs[kCN], layer.tensors[kC0], result.outputs[kCN]);
    if (keep.return_c) packing.scatter(rows.outputs[kC], result.outputs[kC]);
  }
  return result;
}

LayerGrads layer_backward(std::string_view cell, const OutputGrads& grads,
                          const LayerTensors& tensors, const Sequence& sequence, int64_t recompute,
                          const Tensor& output, const Tensor& saved, const GradMask& mask) {
  const ForkGuard fork_guard;
  const CheckedLayer layer = check_layer(cell, tensors, sequence, recompute);
  const CheckedGrads given = check_grads(layer, grads, output, saved);
  LayerGrads result = empty_grads(layer, mask);
  if (!needs_packing(layer)) {
    run_backward(layer, given, result);
    return result;
  }
  const Packing packing(layer);
  const CheckedLayer packed = packing.pack(layer);
  const auto gather = [&](const OptionalTensor& rows) {
    return rows.has_value() ? OptionalTensor(packing.gather(*rows)) : std::nullopt;
  };
  const auto select = [&](const OptionalTensor& states) {
    return states.has_value() ? OptionalTensor(packing.select(*states)) : std::nullopt;
  };
  const CheckedGrads given_rows{{gather(given.grads[kOutput]), select(given.grads[kHN]),
                                 select(given.grads[kCN]), gather(given.grads[kC])},
                                packing.gather(given.output),
                                given.saved};
  const LayerGrads rows = empty_grads(packed, mask);
  run_backward(packed, given_rows, rows);
  for (int i = 0; i < kGradCount; ++i) {
    if (rows[i].dim() == 1 && rows[i].numel() == 0) continue;
    switch (i) {
      case kInput:
      case kGradGatesX:
      case kGradGatesR:
        packing.scatter(rows[i], result[i]);
        break;
      case kH0:
        packing.place(rows[i], given.grads[kHN], result[i]);
        break;
      case kC0:
        packing.place(rows[i], given.grads[kCN], result[i]);
        break;
      case kResetH:
      case kResetC:
        packing.place(rows[i], std::nullopt, result[i]);
        break;
      default:
        result[i] = rows[i];
    }
  }
  return result;
}

// Any device or layout without kernels of its own.
[[noreturn]] void refuse(const LayerTensors& tensors) {
  const Tensor& input = *tensors[kInput];
  TORCH_CHECK_NOT_IMPLEMENTED(input.layout() == at::kStrided,
                              "input: expected a dense tensor, got layout ", input.layout(),
                              "; call .to_dense() first");
  check_kinds(tensors);
  TORCH_CHECK_NOT_IMPLEMENTED(
      false, "input: expected a tensor on the CPU, got device ", input.device(),
      "; this build of fusedrnn has no kernels for it: move the module and its input to the CPU",
      input.is_cuda() ? ", or rebuild where the CUDA toolkit is with: FUSEDRNN_CUDA=1 "
                        "pip install --no-build-isolation --force-reinstall --no-deps ."
                      : "");
}
ForwardResult refuse_forward(std::string_view, const LayerTensors& tensors, const Sequence&,
                             const Keep&) {
  refuse(tensors);
}
LayerGrads refuse_backward(std::string_view, const OutputGrads&, const LayerTensors& tensors,
                           const Sequence&, int64_t, const Tensor&, const Tensor&,
                           const GradMask&) {
  refuse(tensors);
}

}  // namespace

TORCH_LIBRARY_IMPL(fusedrnn, CPU, m) {
  m.impl("layer_forward", TORCH_FN(forward_kernel<layer_forward>));
  m.impl("layer_backward", TORCH_FN(backward_kernel<layer_backward>));
}

TORCH_LIBRARY_IMPL(fusedrnn, CompositeExplicitAutograd, m) {
  m.impl("layer_forward", TORCH_FN(forward_kernel<refuse_forward>));
  m.impl("layer_backward", TORCH_FN(backward_kernel<refuse_backward>));
}

}  // namespace fusedrnn
