#include "bindings/composed.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "bindings/composite.h"
#include "bindings/layer_args.h"

namespace fusedrnn {
namespace {

template <size_t N>
std::array<Dual, N> to_duals(const std::array<OptionalTensor, N>& tensors) {
  std::array<Dual, N> duals;
  for (size_t i = 0; i < N; ++i) duals[i] = tensors[i].value_or(Tensor());
  return duals;
}

void check_layout(const Tensor& input) {
  TORCH_CHECK_NOT_IMPLEMENTED(!input.defined() || input.layout() == at::kStrided,
                              "input: expected a dense tensor, got layout ", input.layout(),
                              "; call .to_dense() first");
}

ForwardResult layer_forward(const LayerGiven& given, const Keep& keep) {
  check_layout(given.input);
  return composed_forward(check_layer(to_places(given), keep.recompute, Means::kComposition), keep);
}

LayerGrads layer_backward(const BackwardArgs& args) {
  check_layout(*args.tensors[kInput]);
  const CheckedLayer layer = check_layer({&check_cell(args.cell), args.tensors, args.sequence, {}},
                                         args.recompute, Means::kComposition);
  return composed_backward(layer, check_grads(layer, args), args.mask);
}

}  // namespace

ForwardResult composed_forward(const CheckedLayer& layer, const Keep& keep) {
  const DualOutputs duals =
      composite_forward(layer.cell.name, {to_duals(layer.tensors)}, layer.sequence, keep.return_c);
  const Tensor nothing = at::empty({0}, layer.tensors[kInput]->options());
  ForwardResult result{{}, nothing, nothing};
  for (int i = 0; i < kOutputCount; ++i) result.outputs[i] = duals[i].value;
  if (keep.save) keep_output(&result);
  return result;
}

LayerGrads composed_backward(const CheckedLayer& layer, const CheckedGrads& given,
                             const GradMask& mask) {
  const DualGrads duals = composite_backward(layer.cell.name, to_duals(given.grads),
                                             {to_duals(layer.tensors)}, layer.sequence)
                              .grads;
  LayerGrads result;
  for (int i = 0; i < kGradCount; ++i) {
    if (mask[i]) result[i] = duals[i].value;
  }
  return result;
}

TORCH_LIBRARY_IMPL(fusedrnn, CompositeExplicitAutograd, m) {
  m.impl("layer_forward", TORCH_FN(forward_kernel<layer_forward>));
  m.impl("layer_backward", TORCH_FN(backward_kernel<layer_backward>));
}

}  // namespace fusedrnn
