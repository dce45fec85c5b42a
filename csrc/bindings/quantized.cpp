// quantized_forward on devices whose kernels read no quantized weights, which then are made float32
// again once a call; without gradients; and under autocast, where it stays in float32.
#include "bindings/quantized.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/library.h>

#include <utility>

namespace fusedrnn {
namespace {

Outputs quantized_forward(const LayerGiven& given, bool return_c) {
  const CheckedLayer layer = check_quantized_layer(given);
  const LayerTensors tensors = dequantize(layer).tensors;
  const std::vector<Tensor> weights = weight_list(tensors);
  return call_layer_forward(to_given(given.cell, tensors, layer.sequence, weights),
                            {false, return_c, 0})
      .outputs;
}

Outputs refuse_gradients(const LayerGiven& layer, bool return_c) {
  const auto check = [](const char* name, const Tensor& tensor) {
    const bool needs_grad = (at::GradMode::is_enabled() && tensor.requires_grad()) ||
                            torch::autograd::isFwGradDefined(tensor);
    TORCH_CHECK(!needs_grad, name,
                ": expected no gradient to be asked for, because quantized weights are for "
                "inference only, got a tensor that requires grad; call it under torch.no_grad(), "
                "or detach the tensor");
  };
  check("input", layer.input);
  for (const auto& [name, tensor] :
       {std::pair<const char*, const OptionalTensor&>("h_0", layer.h_0),
        {"c_0", layer.c_0},
        {"reset_h", layer.reset_h},
        {"reset_c", layer.reset_c}}) {
    if (tensor.has_value()) check(name, *tensor);
  }
  for (const Tensor& weight : layer.weights) check("weights", weight);
  const at::AutoDispatchBelowADInplaceOrView below_autograd;
  return call_quantized_forward(layer, return_c);
}

template <at::DeviceType Device>
Outputs run_in_float32(const LayerGiven& layer, bool return_c) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(
      at::autocast::get_autocast_dispatch_key_from_device_type(Device));
  const auto cast = [&](const auto& given) {
    return at::autocast::cached_cast(at::kFloat, given, Device);
  };
  const Tensor input = cast(layer.input);
  const OptionalTensor h_0 = cast(layer.h_0), c_0 = cast(layer.c_0);
  const OptionalTensor reset_h = cast(layer.reset_h), reset_c = cast(layer.reset_c);
  return call_quantized_forward(
      {layer.cell, input, h_0, c_0, layer.weights, layer.sizes, layer.reset, reset_h, reset_c},
      return_c);
}

}  // namespace

CheckedLayer dequantize(const CheckedLayer& layer) {
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
