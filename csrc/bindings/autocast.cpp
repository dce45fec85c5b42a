// Under autocast a layer runs in the autocast dtype, as torch.nn's does; float64 stays.
#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include "bindings/schema.h"

namespace fusedrnn {
namespace {

template <at::DeviceType Device>
ForwardResult layer_forward(const LayerGiven& layer, const Keep& keep) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(
      at::autocast::get_autocast_dispatch_key_from_device_type(Device));
  const at::ScalarType dtype = at::autocast::get_autocast_dtype(Device);
  const auto cast = [&](const auto& given) {
    return at::autocast::cached_cast(dtype, given, Device);
  };
  const Tensor input = cast(layer.input);
  const OptionalTensor h_0 = cast(layer.h_0), c_0 = cast(layer.c_0);
  const OptionalTensor reset_h = cast(layer.reset_h), reset_c = cast(layer.reset_c);
  const std::vector<Tensor> weights = cast(layer.weights);
  return call_layer_forward(
      {layer.cell, input, h_0, c_0, weights, layer.sizes, layer.reset, reset_h, reset_c}, keep);
}

}  // namespace

TORCH_LIBRARY_IMPL(fusedrnn, AutocastCPU, m) {
  m.impl("layer_forward", TORCH_FN(forward_kernel<layer_forward<at::kCPU>>));
}

TORCH_LIBRARY_IMPL(fusedrnn, AutocastCUDA, m) {
  m.impl("layer_forward", TORCH_FN(forward_kernel<layer_forward<at::kCUDA>>));
}

}  // namespace fusedrnn
