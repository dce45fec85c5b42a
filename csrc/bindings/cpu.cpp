// The operators on the CPU, one call of the library for each direction, and on devices without
// kernels.
#include <torch/library.h>

#include "bindings/checks.h"
#include "bindings/layer_args.h"
#include "bindings/plan.h"
#include "bindings/runtime.h"
#include "cpu/kernels.h"

namespace fusedrnn {
namespace {

ForwardResult layer_forward(std::string_view cell, const LayerTensors& tensors,
                            const OptionalTensor& batch_sizes, bool save) {
  const ForkGuard fork_guard;
  const CheckedLayer layer = check_layer(cell, tensors, batch_sizes);
  const ForwardResult result = empty_forward_result(layer, save);
  if (layer.total_rows == 0) return result;

  const CpuPlan chosen = make_cpu_plan(to_problem(layer, save));
  for (int direction = 0; direction < layer.directions; ++direction) {
    TorchRuntime runtime;
    check_status(layer_forward_cpu(forward_args(layer, result, direction), chosen.plan, chosen.isa,
                                   runtime));
  }
  return result;
}

LayerGrads layer_backward(std::string_view cell, const OutputGrads& grads,
                          const LayerTensors& tensors, const OptionalTensor& batch_sizes,
                          const Tensor& output, const Tensor& saved, const GradMask& mask) {
  const ForkGuard fork_guard;
  const CheckedLayer layer = check_layer(cell, tensors, batch_sizes);
  const CheckedGrads given = check_grads(layer, grads, output, saved);
  const LayerGrads result = empty_grads(layer, mask);
  if (layer.total_rows == 0) return result;

  const CpuPlan chosen = make_cpu_plan(to_problem(layer, true));
  for (int direction = 0; direction < layer.directions; ++direction) {
    TorchRuntime runtime;
    check_status(layer_backward_cpu(backward_args(layer, given, result, direction), chosen.plan,
                                    chosen.isa, runtime));
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
ForwardResult refuse_forward(std::string_view, const LayerTensors& tensors, const OptionalTensor&,
                             bool) {
  refuse(tensors);
}
LayerGrads refuse_backward(std::string_view, const OutputGrads&, const LayerTensors& tensors,
                           const OptionalTensor&, const Tensor&, const Tensor&, const GradMask&) {
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
