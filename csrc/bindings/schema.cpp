#include "bindings/schema.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/util/StringUtil.h>

#include <string>

#include "bindings/checks.h"

namespace fusedrnn {
namespace {

using ForwardSignature = decltype(forward_kernel<call_layer_forward>);
using BackwardSignature = decltype(backward_kernel<call_layer_backward>);
using QuantizedSignature = decltype(quantized_kernel<call_quantized_forward>);

c10::OperatorHandle find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
}

std::string shapes_text(at::TensorList tensors) {
  std::vector<std::string> shapes;
  for (const Tensor& tensor : tensors) {
    const char* end = tensor.dim() == 1 ? ",)" : ")";
    shapes.push_back(c10::str("(", c10::Join(", ", tensor.sym_sizes()), end));
  }
  return c10::str("[", c10::Join(", ", shapes), "]");
}

// Matrices tell how many directions there are and whether h is projected; vectors are biases, what
// the cell has besides, and the scales of int8, which are as many as matrices.
void place_weights(const CellInfo& cell, at::TensorList weights, LayerPlaces& places) {
  int matrices = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    TORCH_CHECK(weights[i].defined(), "weights[", i, "]: expected a tensor, got None");
    matrices += weights[i].dim() == 2 ? 1 : 0;
  }
  const int count = static_cast<int>(weights.size());
  const int directions = matrices > 3 ? 2 : 1;
  const int own_matrices = matrices / directions, own = count / directions;
  const bool has_params = cell.params > 0;
  const bool has_scales = count > 0 && weights[0].scalar_type() == at::kChar;
  const int biases = own - (has_scales ? 2 : 1) * own_matrices - (has_params ? 1 : 0);
  const bool fits = matrices == own_matrices * directions && count == own * directions &&
                    (own_matrices == 2 || own_matrices == 3) && (biases == 0 || biases == 2);
  TORCH_CHECK_VALUE(fits,
                    "weights: expected for each direction weight_ih, weight_hh, both biases or "
                    "neither, and weight_hr with a projection",
                    has_params ? ", then params" : "",
                    has_scales ? ", then the scales of each weight in int8" : "", ", got shapes ",
                    shapes_text(weights));
  int next = 0;
  for (int direction = 0; direction < directions; ++direction) {
    for (int weight = 0; weight < kWeightCount; ++weight) {
      const bool is_bias = weight == kBiasIh || weight == kBiasHh;
      const bool exists = is_bias               ? biases == 2
                          : weight == kWeightHr ? own_matrices == 3
                          : weight == kParams   ? has_params
                                                : true;
      if (exists) places.tensors[weight_place(direction, weight)] = weights[next++];
    }
    for (int scale = 0; has_scales && scale < own_matrices; ++scale) {
      places.scales[direction * kScaleCount + scale] = weights[next++];
    }
  }
}

// What a mask has a value for.
bool has_grad(const LayerTensors& tensors, int place) {
  return place >= kLayerTensorCount || tensors[place].has_value();
}

}  // namespace

LayerPlaces to_places(const LayerGiven& given) {
  const CellInfo& cell = check_cell(given.cell);
  LayerPlaces places{&cell, {}, {}, {}};
  places.tensors[kInput] = given.input;
  places.tensors[kH0] = given.h_0;
  places.tensors[kC0] = given.c_0;
  places.tensors[kResetH] = given.reset_h;
  places.tensors[kResetC] = given.reset_c;
  place_weights(cell, given.weights, places);
  places.sequence.reset = given.reset;
  if (given.sizes.has_value()) {
    const bool is_packed = given.input.defined() && given.input.dim() == 2;
    (is_packed ? places.sequence.batch_sizes : places.sequence.lengths) = given.sizes;
  }
  return places;
}

std::vector<Tensor> weight_list(const LayerTensors& tensors) {
  std::vector<Tensor> weights;
  weights.reserve(2 * kWeightCount);
  for (int place = kWeights; place < kResetH; ++place) {
    if (tensors[place].has_value()) weights.push_back(*tensors[place]);
  }
  return weights;
}

const OptionalTensor& sizes_of(const Sequence& sequence) {
  return sequence.batch_sizes.has_value() ? sequence.batch_sizes : sequence.lengths;
}

BackwardArgs to_backward_args(const LayerGiven& layer, const GradList& grads, int64_t recompute,
                              at::TensorList kept, const c10::List<bool>& mask) {
  LayerPlaces places = to_places(layer);
  BackwardArgs args{
      layer.cell, {}, std::move(places.tensors), std::move(places.sequence), recompute, {}, {}, {}};
  TORCH_CHECK_VALUE(grads.size() == kOutputCount, "grads: expected ", kOutputCount,
                    " gradients or None, of output, h_n, c_n and c, got ", grads.size());
  for (int i = 0; i < kOutputCount; ++i) {
    // torch does so for every argument but lists of optional tensors.
    if (const OptionalTensor grad = grads.get(i))
      args.grads[i] = grad->resolve_neg().resolve_conj();
  }
  TORCH_CHECK_VALUE(kept.size() == 2, "kept: expected saved and kept_output, got ", kept.size(),
                    " tensors");
  args.saved = kept[0];
  args.kept_output = kept[1];
  size_t next = 0;
  for (int place = 0; place < kGradCount; ++place) {
    if (!has_grad(args.tensors, place)) continue;
    args.mask[place] = next < mask.size() && mask.get(next);
    ++next;
  }
  TORCH_CHECK_VALUE(mask.size() == next, "mask: expected ", next,
                    " values, of each tensor of the layer and of both pre-activations, got ",
                    mask.size());
  return args;
}

std::vector<Tensor> wanted_grads(const BackwardArgs& args, LayerGrads&& grads) {
  std::vector<Tensor> wanted;
  wanted.reserve(kGradCount);
  for (int place = 0; place < kGradCount; ++place) {
    if (args.mask[place]) wanted.push_back(std::move(grads[place]));
  }
  return wanted;
}

ForwardResult call_layer_forward(const LayerGiven& layer, const Keep& keep) {
  static const auto op = find_operator("fusedrnn::layer_forward").typed<ForwardSignature>();
  auto [output, h_n, c_n, c, saved, kept_output] =
      op.call(layer.cell, layer.input, layer.h_0, layer.c_0, layer.weights, layer.sizes,
              layer.reset, layer.reset_h, layer.reset_c, keep.save, keep.return_c, keep.recompute);
  return {{std::move(output), std::move(h_n), std::move(c_n), std::move(c)},
          std::move(saved),
          std::move(kept_output)};
}

LayerGrads call_layer_backward(const BackwardArgs& args) {
  static const auto op = find_operator("fusedrnn::layer_backward").typed<BackwardSignature>();
  const std::vector<Tensor> weights = weight_list(args.tensors);
  const LayerGiven layer = to_given(args.cell, args.tensors, args.sequence, weights);
  GradList grads;
  for (const OptionalTensor& grad : args.grads) grads.push_back(grad);
  c10::List<bool> mask;
  for (int place = 0; place < kGradCount; ++place) {
    if (has_grad(args.tensors, place)) mask.push_back(args.mask[place]);
  }
  const std::array<Tensor, 2> kept = {args.saved, args.kept_output};
  std::vector<Tensor> wanted =
      op.call(layer.cell, grads, layer.input, layer.h_0, layer.c_0, layer.weights, layer.sizes,
              layer.reset, layer.reset_h, layer.reset_c, args.recompute, kept, mask);
  LayerGrads result;
  size_t next = 0;
  for (int place = 0; place < kGradCount; ++place) {
    if (args.mask[place]) result[place] = std::move(wanted.at(next++));
  }
  return result;
}

Outputs call_quantized_forward(const LayerGiven& layer, bool return_c) {
  static const auto op = find_operator("fusedrnn::quantized_forward").typed<QuantizedSignature>();
  OutputsTuple result = op.call(layer.cell, layer.input, layer.h_0, layer.c_0, layer.weights,
                                layer.sizes, layer.reset, layer.reset_h, layer.reset_c, return_c);
  return std::apply([](auto&... output) { return Outputs{std::move(output)...}; }, result);
}

}  // namespace fusedrnn
