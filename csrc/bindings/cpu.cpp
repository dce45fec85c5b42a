// The operators on the CPU: checks, buffers, and one call of the library for each direction.
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "bindings/checks.h"
#include "bindings/plan.h"
#include "bindings/runtime.h"
#include "cpu/kernels.h"

namespace fusedrnn {
namespace {

const void* read_ptr(const OptionalTensor& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr() : nullptr;
}

// Pointers into `tensor` at the part of one direction, or null where there is nothing.
const void* read_part(const OptionalTensor& tensor, int64_t offset) {
  if (!tensor.has_value()) return nullptr;
  return static_cast<const char*>(tensor->const_data_ptr()) + offset * tensor->element_size();
}
void* write_part(const Tensor& tensor, int64_t offset) {
  if (!tensor.defined() || tensor.numel() == 0) return nullptr;
  return static_cast<char*>(tensor.mutable_data_ptr()) + offset * tensor.element_size();
}

Problem to_problem(const CheckedLayer& layer, bool training) {
  return {layer.cell.kind,
          layer.dtype,
          layer.seq_len,
          layer.batch_size,
          layer.total_rows,
          layer.input_size,
          layer.hidden_size,
          layer.proj_size,
          layer.directions,
          training,
          layer.batch_sizes.has_value()};
}

LayerShape to_shape(const CheckedLayer& layer, int direction) {
  return {layer.cell.kind,
          layer.dtype,
          direction == 0 ? Direction::kForward : Direction::kReverse,
          layer.seq_len,
          layer.batch_size,
          layer.total_rows,
          layer.input_size,
          layer.hidden_size,
          layer.proj_size,
          static_cast<const int64_t*>(read_ptr(layer.batch_sizes))};
}

LayerWeights to_weights(const CheckedLayer& layer, int direction) {
  return {read_ptr(layer.weight(direction, kWeightIh)),
          read_ptr(layer.weight(direction, kWeightHh)), read_ptr(layer.weight(direction, kBiasIh)),
          read_ptr(layer.weight(direction, kBiasHh)), read_ptr(layer.weight(direction, kWeightHr))};
}

ForwardResult layer_forward(std::string_view cell, const LayerTensors& tensors,
                            const OptionalTensor& batch_sizes, bool save) {
  const ForkGuard fork_guard;
  const CheckedLayer layer = check_layer(cell, tensors, batch_sizes);
  const auto options = layer.tensors[kInput]->options();
  ForwardResult result{at::empty(layer.output_shape(), options),
                       at::empty(layer.h_shape(), options), at::empty(layer.c_shape(), options),
                       at::empty(save ? layer.saved_shape() : at::DimVector{0}, options)};
  if (layer.total_rows == 0) return result;

  const auto& [output, h_n, c_n, saved] = result;
  const CpuPlan chosen = make_cpu_plan(to_problem(layer, save));
  const int64_t h_part = layer.batch_size * layer.output_size();
  const int64_t c_part = layer.batch_size * layer.hidden_size;
  for (int d = 0; d < layer.directions; ++d) {
    LayerForwardArgs args{};
    args.shape = to_shape(layer, d);
    args.weights = to_weights(layer, d);
    args.input = read_ptr(layer.tensors[kInput]);
    args.h_0 = read_part(layer.tensors[kH0], d * h_part);
    args.c_0 = read_part(layer.tensors[kC0], d * c_part);
    args.output = write_part(output, d * layer.output_size());
    args.output_row_stride = layer.directions * layer.output_size();
    args.h_n = write_part(h_n, d * h_part);
    args.c_n = write_part(c_n, d * c_part);
    args.saved = write_part(saved, d * (saved.numel() / layer.directions));
    TorchRuntime runtime;
    check_status(layer_forward_cpu(args, chosen.plan, chosen.isa, runtime));
  }
  return result;
}

LayerGrads layer_backward(std::string_view cell, const OutputGrads& grads,
                          const LayerTensors& tensors, const OptionalTensor& batch_sizes,
                          const Tensor& output, const Tensor& saved, const GradMask& mask) {
  const ForkGuard fork_guard;
  const CheckedLayer layer = check_layer(cell, tensors, batch_sizes);
  const CheckedGrads given = check_grads(layer, grads, output, saved);
  const auto options = layer.tensors[kInput]->options();
  LayerGrads result;
  for (int i = 0; i < kLayerTensorCount; ++i) {
    const bool wanted = mask[i] && layer.tensors[i].has_value();
    const at::DimVector shape =
        wanted ? at::DimVector(layer.tensors[i]->sizes()) : at::DimVector{0};
    result[i] = layer.total_rows == 0 ? at::zeros(shape, options) : at::empty(shape, options);
  }
  if (layer.total_rows == 0) return result;

  const CpuPlan chosen = make_cpu_plan(to_problem(layer, true));
  const int64_t h_part = layer.batch_size * layer.output_size();
  const int64_t c_part = layer.batch_size * layer.hidden_size;
  for (int d = 0; d < layer.directions; ++d) {
    LayerBackwardArgs args{};
    args.shape = to_shape(layer, d);
    args.weights = to_weights(layer, d);
    args.input = read_ptr(layer.tensors[kInput]);
    args.h_0 = read_part(layer.tensors[kH0], d * h_part);
    args.c_0 = read_part(layer.tensors[kC0], d * c_part);
    args.output = read_part(given.output, d * layer.output_size());
    args.output_row_stride = layer.directions * layer.output_size();
    args.saved = read_part(given.saved, d * (given.saved.numel() / layer.directions));
    args.grad_output = read_part(given.grads[0], d * layer.output_size());
    args.grad_output_row_stride = args.output_row_stride;
    args.grad_h_n = read_part(given.grads[1], d * h_part);
    args.grad_c_n = read_part(given.grads[2], d * c_part);
    args.grad_input = write_part(result[kInput], 0);
    args.accumulate_grad_input = d > 0;
    args.grad_h_0 = write_part(result[kH0], d * h_part);
    args.grad_c_0 = write_part(result[kC0], d * c_part);
    const Tensor* weight_grads = &result[weight_place(d, 0)];
    args.grad_weight_ih = write_part(weight_grads[kWeightIh], 0);
    args.grad_weight_hh = write_part(weight_grads[kWeightHh], 0);
    args.grad_bias_ih = write_part(weight_grads[kBiasIh], 0);
    args.grad_bias_hh = write_part(weight_grads[kBiasHh], 0);
    args.grad_weight_hr = write_part(weight_grads[kWeightHr], 0);
    TorchRuntime runtime;
    check_status(layer_backward_cpu(args, chosen.plan, chosen.isa, runtime));
  }
  return result;
}

// Any device or layout without kernels of its own.
[[noreturn]] void refuse(const Tensor& input) {
  TORCH_CHECK_NOT_IMPLEMENTED(input.layout() == at::kStrided,
                              "input: expected a dense tensor, got layout ", input.layout(),
                              "; call .to_dense() first");
  TORCH_CHECK_NOT_IMPLEMENTED(
      false, "input: expected a tensor on the CPU, got device ", input.device(),
      "; this build of fusedrnn has no kernels for it: move the module and its input to the CPU, "
      "or rebuild where that device's toolkit is installed with: "
      "pip install --no-build-isolation --force-reinstall --no-deps .");
}
ForwardResult refuse_forward(std::string_view, const LayerTensors& tensors, const OptionalTensor&,
                             bool) {
  refuse(*tensors[kInput]);
}
LayerGrads refuse_backward(std::string_view, const OutputGrads&, const LayerTensors& tensors,
                           const OptionalTensor&, const Tensor&, const Tensor&, const GradMask&) {
  refuse(*tensors[kInput]);
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
