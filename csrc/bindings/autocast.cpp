// Under autocast a layer runs in the autocast dtype, as torch.nn's does; float64 stays.
#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include "bindings/schema.h"

namespace fusedrnn {
namespace {

template <at::DeviceType Device>
ForwardResult layer_forward(std::string_view cell, const LayerTensors& tensors,
                            const Sequence& sequence, const Keep& keep) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(
      at::autocast::get_autocast_dispatch_key_from_device_type(Device));
  const at::ScalarType dtype = at::autocast::get_autocast_dtype(Device);
  LayerTensors cast;
  for (int i = 0; i < kLayerTensorCount; ++i) {
    cast[i] = at::autocast::cached_cast(dtype, tensors[i], Device);
  }
  return call_layer_forward(cell, cast, sequence, keep);
}

}  // namespace

TORCH_LIBRARY_IMPL(fusedrnn, AutocastCPU, m) {
  m.impl("layer_forward", TORCH_FN(forward_kernel<layer_forward<at::kCPU>>));
}

TORCH_LIBRARY_IMPL(fusedrnn, AutocastCUDA, m) {
  m.impl("layer_forward", TORCH_FN(forward_kernel<layer_forward<at::kCUDA>>));
}

}  // namespace fusedrnn
