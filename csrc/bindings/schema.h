// The schemas of library.cpp in C++. Their long argument lists are written out here alone:
// kernels take LayerTensors, and forward_kernel and backward_kernel adapt them.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <string_view>
#include <tuple>

namespace fusedrnn {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// The tensors of a layer that can have a gradient, in the schemas' order. Input and the
// forward direction's weight_ih and weight_hh are always present.
enum LayerTensor : int {
  kInput,
  kH0,
  kC0,
  kWeights,  // the five of the forward direction, then the five of the reverse one
};
enum DirectionWeight : int { kWeightIh, kWeightHh, kBiasIh, kBiasHh, kWeightHr, kWeightCount };
constexpr int kLayerTensorCount = kWeights + 2 * kWeightCount;

// The place of a weight among the layer's tensors.
constexpr int weight_place(int direction, int weight) {
  return kWeights + direction * kWeightCount + weight;
}

using LayerTensors = std::array<OptionalTensor, kLayerTensorCount>;
using GradMask = std::array<bool, kLayerTensorCount>;
using LayerGrads = std::array<Tensor, kLayerTensorCount>;

// Gradients of output, h_n and c_n.
constexpr int kOutputCount = 3;
using OutputGrads = std::array<OptionalTensor, kOutputCount>;

using ForwardResult = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using LayerGradsTuple = decltype(std::tuple_cat(LayerGrads()));

// Calls the operators through the dispatcher.
ForwardResult call_layer_forward(std::string_view cell, const LayerTensors& tensors,
                                 const OptionalTensor& batch_sizes, bool save);
LayerGrads call_layer_backward(std::string_view cell, const OutputGrads& grads,
                               const LayerTensors& tensors, const OptionalTensor& batch_sizes,
                               const Tensor& output, const Tensor& saved, const GradMask& mask);
// Kernel, a function like call_layer_forward, with the argument list of the schema.
template <auto Kernel>
ForwardResult forward_kernel(
    std::string_view cell, const Tensor& input, const OptionalTensor& h_0,
    const OptionalTensor& c_0, const Tensor& weight_ih, const Tensor& weight_hh,
    const OptionalTensor& bias_ih, const OptionalTensor& bias_hh, const OptionalTensor& weight_hr,
    const OptionalTensor& weight_ih_reverse, const OptionalTensor& weight_hh_reverse,
    const OptionalTensor& bias_ih_reverse, const OptionalTensor& bias_hh_reverse,
    const OptionalTensor& weight_hr_reverse, const OptionalTensor& batch_sizes, bool save) {
  const LayerTensors tensors{input,
                             h_0,
                             c_0,
                             weight_ih,
                             weight_hh,
                             bias_ih,
                             bias_hh,
                             weight_hr,
                             weight_ih_reverse,
                             weight_hh_reverse,
                             bias_ih_reverse,
                             bias_hh_reverse,
                             weight_hr_reverse};
  return Kernel(cell, tensors, batch_sizes, save);
}

// Kernel, a function like call_layer_backward, with the argument list of the schema.
template <auto Kernel>
LayerGradsTuple backward_kernel(
    std::string_view cell, const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
    const OptionalTensor& grad_c_n, const Tensor& input, const OptionalTensor& h_0,
    const OptionalTensor& c_0, const Tensor& weight_ih, const Tensor& weight_hh,
    const OptionalTensor& bias_ih, const OptionalTensor& bias_hh, const OptionalTensor& weight_hr,
    const OptionalTensor& weight_ih_reverse, const OptionalTensor& weight_hh_reverse,
    const OptionalTensor& bias_ih_reverse, const OptionalTensor& bias_hh_reverse,
    const OptionalTensor& weight_hr_reverse, const OptionalTensor& batch_sizes,
    const Tensor& output, const Tensor& saved, GradMask output_mask) {
  const LayerTensors tensors{input,
                             h_0,
                             c_0,
                             weight_ih,
                             weight_hh,
                             bias_ih,
                             bias_hh,
                             weight_hr,
                             weight_ih_reverse,
                             weight_hh_reverse,
                             bias_ih_reverse,
                             bias_hh_reverse,
                             weight_hr_reverse};
  return std::tuple_cat(Kernel(cell, OutputGrads{grad_output, grad_h_n, grad_c_n}, tensors,
                               batch_sizes, output, saved, output_mask));
}

}  // namespace fusedrnn
