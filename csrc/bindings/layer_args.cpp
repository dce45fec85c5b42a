#include "bindings/layer_args.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/_lazy_clone_compositeexplicitautograd_dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include "bindings/settings.h"

namespace fusedrnn {
namespace {

// Makes what at::empty makes. On the CPU it leaves out the dispatcher, which for the five results
// of a layer takes as long as a small step.
Tensor make_empty(at::IntArrayRef shape, const at::TensorOptions& options) {
  return options.device().is_cpu() ? at::detail::empty_cpu(shape, options)
                                   : at::empty(shape, options);
}

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

// Pointers into a tensor [directions, ...] at the part of one direction, or null.
const void* read_direction(const OptionalTensor& tensor, const CheckedLayer& layer, int direction) {
  return tensor.has_value() ? read_part(tensor, direction * (tensor->numel() / layer.directions))
                            : nullptr;
}
void* write_direction(const Tensor& tensor, const CheckedLayer& layer, int direction) {
  return write_part(tensor, tensor.defined() ? direction * (tensor.numel() / layer.directions) : 0);
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
          static_cast<const int64_t*>(read_ptr(layer.sequence.batch_sizes)),
          static_cast<const int64_t*>(read_ptr(layer.sequence.lengths)),
          static_cast<const uint8_t*>(read_ptr(layer.sequence.reset)),
          layer.recompute,
          static_cast<const int64_t*>(read_ptr(layer.order)),
          layer.padded_rows};
}

LayerWeights to_weights(const CheckedLayer& layer, int direction) {
  const auto scale = [&](WeightScale place) {
    return static_cast<const float*>(read_ptr(layer.scales[direction * kScaleCount + place]));
  };
  return {read_ptr(layer.weight(direction, kWeightIh)),
          read_ptr(layer.weight(direction, kWeightHh)),
          read_ptr(layer.weight(direction, kBiasIh)),
          read_ptr(layer.weight(direction, kBiasHh)),
          read_ptr(layer.weight(direction, kWeightHr)),
          read_ptr(layer.weight(direction, kParams)),
          layer.format,
          scale(kScaleIh),
          scale(kScaleHh),
          scale(kScaleHr)};
}

}  // namespace

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
          layer.sequence.batch_sizes.has_value(),
          layer.format,
          chosen_chunk_bytes()};
}

ForwardResult empty_forward_result(const CheckedLayer& layer, const Keep& keep) {
  const auto options = layer.tensors[kInput]->options();
  const bool returns_c = keep.return_c && layer.cell.states == 2;
  const at::DimVector nothing{0};
  ForwardResult result;
  result.outputs = {make_empty(layer.output_shape(), options), make_empty(layer.h_shape(), options),
                    make_empty(layer.c_shape(), options),
                    make_empty(returns_c ? layer.rows_shape(layer.hidden_size) : nothing, options)};
  const at::DimVector saved_shape = keep.save ? layer.saved_shape() : nothing;
  result.kept_output = make_empty(nothing, options);
  const auto saved_options = options.dtype(layer.saved_dtype());
  // There is room for more states than are kept.
  result.saved = layer.recompute > 0 ? at::zeros(saved_shape, saved_options)
                                     : make_empty(saved_shape, saved_options);
  return result;
}

void keep_output(ForwardResult* result) {
  const Tensor& output = result->outputs[kOutput];
  result->kept_output = output.numel() > 0 ? at::compositeexplicitautograd::_lazy_clone(output)
                                           : at::empty_like(output);
}

LayerGrads empty_grads(const CheckedLayer& layer, const GradMask& mask) {
  const auto options = layer.tensors[kInput]->options();
  LayerGrads result;
  for (int i = 0; i < kGradCount; ++i) {
    if (!mask[i]) continue;
    const at::DimVector shape = i >= kLayerTensorCount
                                    ? layer.rows_shape(layer.cell.gates * layer.hidden_size)
                                    : at::DimVector(layer.tensors[i]->sizes());
    result[i] = layer.total_rows == 0 ? at::zeros(shape, options) : at::empty(shape, options);
  }
  return result;
}

LayerForwardArgs forward_args(const CheckedLayer& layer, const ForwardResult& result,
                              int direction) {
  const auto& [output, h_n, c_n, c] = result.outputs;
  const Tensor& saved = result.saved;
  const int64_t h_part = layer.batch_size * layer.output_size();
  const int64_t c_part = layer.batch_size * layer.hidden_size;
  LayerForwardArgs args{};
  args.shape = to_shape(layer, direction);
  args.weights = to_weights(layer, direction);
  args.input = read_ptr(layer.tensors[kInput]);
  args.h_0 = read_part(layer.tensors[kH0], direction * h_part);
  args.c_0 = read_part(layer.tensors[kC0], direction * c_part);
  args.reset_h = read_part(layer.tensors[kResetH], direction * h_part);
  args.reset_c = read_part(layer.tensors[kResetC], direction * c_part);
  args.output = write_part(output, direction * layer.output_size());
  args.output_row_stride = layer.directions * layer.output_size();
  args.h_n = write_part(h_n, direction * h_part);
  args.c_n = write_part(c_n, direction * c_part);
  args.c = write_direction(c, layer, direction);
  args.saved = write_direction(saved, layer, direction);
  return args;
}

LayerBackwardArgs backward_args(const CheckedLayer& layer, const CheckedGrads& given,
                                const LayerGrads& result, int direction) {
  const int64_t h_part = layer.batch_size * layer.output_size();
  const int64_t c_part = layer.batch_size * layer.hidden_size;
  LayerBackwardArgs args{};
  args.shape = to_shape(layer, direction);
  args.weights = to_weights(layer, direction);
  args.input = read_ptr(layer.tensors[kInput]);
  args.h_0 = read_part(layer.tensors[kH0], direction * h_part);
  args.c_0 = read_part(layer.tensors[kC0], direction * c_part);
  args.reset_h = read_part(layer.tensors[kResetH], direction * h_part);
  args.reset_c = read_part(layer.tensors[kResetC], direction * c_part);
  args.output = read_part(given.output, direction * layer.output_size());
  args.output_row_stride = layer.directions * layer.output_size();
  args.saved = read_direction(given.saved, layer, direction);
  args.grad_output = read_part(given.grads[kOutput], direction * layer.output_size());
  args.grad_output_row_stride = args.output_row_stride;
  args.grad_h_n = read_part(given.grads[kHN], direction * h_part);
  args.grad_c_n = read_part(given.grads[kCN], direction * c_part);
  args.grad_c = read_direction(given.grads[kC], layer, direction);
  args.grad_input = write_part(result[kInput], 0);
  args.accumulate_grad_input = direction > 0;
  args.grad_h_0 = write_part(result[kH0], direction * h_part);
  args.grad_c_0 = write_part(result[kC0], direction * c_part);
  args.grad_reset_h = write_part(result[kResetH], direction * h_part);
  args.grad_reset_c = write_part(result[kResetC], direction * c_part);
  const Tensor* weight_grads = &result[weight_place(direction, 0)];
  args.grad_weight_ih = write_part(weight_grads[kWeightIh], 0);
  args.grad_weight_hh = write_part(weight_grads[kWeightHh], 0);
  args.grad_bias_ih = write_part(weight_grads[kBiasIh], 0);
  args.grad_bias_hh = write_part(weight_grads[kBiasHh], 0);
  args.grad_weight_hr = write_part(weight_grads[kWeightHr], 0);
  args.grad_params = write_part(weight_grads[kParams], 0);
  args.grad_gates_x = write_direction(result[kGradGatesX], layer, direction);
  args.grad_gates_r = write_direction(result[kGradGatesR], layer, direction);
  return args;
}

}  // namespace fusedrnn
