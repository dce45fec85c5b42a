// quantized_forward on devices whose kernels read no quantized weights, which then are made float32
// again once a call; without gradients; and under autocast, where it stays in float32.
#include "bindings/quantized.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/library.h>

namespace fusedrnn {
namespace {

Outputs quantized_forward(std::string_view cell, const LayerTensors& tensors,
                          const WeightScales& scales, const Sequence& sequence, bool return_c) {
  const CheckedLayer layer = check_quantized_layer(cell, tensors, scales, sequence);
  return call_layer_forward(cell, dequantize(layer).tensors, sequence, {false, return_c, 0})
      .outputs;
}

Outputs refuse_gradients(std::string_view cell, const LayerTensors& tensors,
                         const WeightScales& scales, const Sequence& sequence, bool return_c) {
  for (int place = 0; place < kLayerTensorCount; ++place) {
    const OptionalTensor& tensor = tensors[place];
    const bool needs_grad =
        tensor.has_value() && ((at::GradMode::is_enabled() && tensor->requires_grad()) ||
                               torch::autograd::isFwGradDefined(*tensor));
    TORCH_CHECK(!needs_grad, tensor_name(place),
                ": expected no gradient to be asked for, because quantized weights are for "
                "inference only, got a tensor that requires grad; call it under torch.no_grad(), "
                "or detach the tensor");
  }
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return call_quantized_forward(cell, tensors, scales, sequence, return_c);
}

template <at::DeviceType Device>
Outputs run_in_float32(std::string_view cell, const LayerTensors& tensors,
                       const WeightScales& scales, const Sequence& sequence, bool return_c) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(
      at::autocast::get_autocast_dispatch_key_from_device_type(Device));
  LayerTensors cast = tensors;
  for (int place = 0; place < kWeights; ++place) {
    cast[place] = at::autocast::cached_cast(at::kFloat, tensors[place], Device);
  }
  return call_quantized_forward(cell, cast, scales, sequence, return_c);
}

}  // namespace

CheckedLayer dequantize(const CheckedLayer& layer) {
  constexpr DirectionWeight kScaled[kScaleCount] = {kWeightIh, kWeightHh, kWeightHr};
  CheckedLayer result = layer;
  result.format = WeightFormat::kSame;
  result.scales = {};
  for (int place = 0; place < 2 * kScaleCount; ++place) {
    OptionalTensor& weight =
        result.tensors[weight_place(place / kScaleCount, kScaled[place % kScaleCount])];
    if (!weight.has_value()) continue;
    weight = weight->to(at::kFloat);
    const OptionalTensor& scale = layer.scales[place];
    if (scale.has_value()) weight->mul_(scale->unsqueeze(1));
  }
  return result;
}

TORCH_LIBRARY_IMPL(fusedrnn, CompositeExplicitAutograd, m) {
  m.impl("quantized_forward", TORCH_FN(quantized_kernel<quantized_forward>));
}

TORCH_LIBRARY_IMPL(fusedrnn, Autograd, m) {
  m.impl("quantized_forward", TORCH_FN(quantized_kernel<refuse_gradients>));
}

TORCH_LIBRARY_IMPL(fusedrnn, AutocastCPU, m) {
  m.impl("quantized_forward", TORCH_FN(quantized_kernel<run_in_float32<at::kCPU>>));
}

TORCH_LIBRARY_IMPL(fusedrnn, AutocastCUDA, m) {
  m.impl("quantized_forward", TORCH_FN(quantized_kernel<run_in_float32<at::kCUDA>>));
}

}  // namespace fusedrnn
