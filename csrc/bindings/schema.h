// The schemas of library.cpp in C++. Their long argument lists are written out here alone:
// kernels take LayerTensors, and forward_kernel, backward_kernel and quantized_kernel adapt them.
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
  kResetH,
  kResetC,
  kWeights,  // the five of the forward direction, then the five of the reverse one
};
enum DirectionWeight : int { kWeightIh, kWeightHh, kBiasIh, kBiasHh, kWeightHr, kWeightCount };
constexpr int kLayerTensorCount = kWeights + 2 * kWeightCount;

// The place of a weight among the layer's tensors.
constexpr int weight_place(int direction, int weight) {
  return kWeights + direction * kWeightCount + weight;
}

// The scales of quantized weights: the three of the forward direction, then of the reverse one.
enum WeightScale : int { kScaleIh, kScaleHh, kScaleHr, kScaleCount };
using WeightScales = std::array<std::optional<at::Tensor>, 2 * kScaleCount>;

// The gradients that layer_backward returns: of those tensors, then of the pre-activations.
enum GatesGrad : int { kGradGatesX = kLayerTensorCount, kGradGatesR };
constexpr int kGradCount = kGradGatesR + 1;

using LayerTensors = std::array<OptionalTensor, kLayerTensorCount>;
using GradMask = std::array<bool, kGradCount>;
using LayerGrads = std::array<Tensor, kGradCount>;

// Which rows each step has, and where their states are reset.
struct Sequence {
  OptionalTensor batch_sizes, lengths, reset;
};

// What layer_forward keeps besides its results.
struct Keep {
  bool save;          // for backward
  bool return_c;      // c of every step is a result
  int64_t recompute;  // 0, or the steps from one saved state to the next
};

enum LayerOutput : int { kOutput, kHN, kCN, kC };
constexpr int kOutputCount = 4;
using Outputs = std::array<Tensor, kOutputCount>;
using OutputGrads = std::array<OptionalTensor, kOutputCount>;

struct ForwardResult {
  Outputs outputs;
  Tensor saved;
  Tensor kept_output;
};
using ForwardTuple = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using OutputsTuple = decltype(std::tuple_cat(Outputs()));
using LayerGradsTuple = decltype(std::tuple_cat(LayerGrads()));

// Calls the operators through the dispatcher.
ForwardResult call_layer_forward(std::string_view cell, const LayerTensors& tensors,
                                 const Sequence& sequence, const Keep& keep);
LayerGrads call_layer_backward(std::string_view cell, const OutputGrads& grads,
                               const LayerTensors& tensors, const Sequence& sequence,
                               int64_t recompute, const Tensor& kept_output, const Tensor& saved,
                               const GradMask& mask);
Outputs call_quantized_forward(std::string_view cell, const LayerTensors& tensors,
                               const WeightScales& scales, const Sequence& sequence, bool return_c);

// Kernel, a function like call_layer_forward, with the argument list of the schema.
template <auto Kernel>
ForwardTuple forward_kernel(
    std::string_view cell, const Tensor& input, const OptionalTensor& h_0,
    const OptionalTensor& c_0, const OptionalTensor& reset_h, const OptionalTensor& reset_c,
    const Tensor& weight_ih, const Tensor& weight_hh, const OptionalTensor& bias_ih,
    const OptionalTensor& bias_hh, const OptionalTensor& weight_hr,
    const OptionalTensor& weight_ih_reverse, const OptionalTensor& weight_hh_reverse,
    const OptionalTensor& bias_ih_reverse, const OptionalTensor& bias_hh_reverse,
    const OptionalTensor& weight_hr_reverse, const OptionalTensor& batch_sizes,
    const OptionalTensor& lengths, const OptionalTensor& reset, bool save, bool return_c,
    int64_t recompute) {
  const LayerTensors tensors{input,
                             h_0,
                             c_0,
                             reset_h,
                             reset_c,
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
  ForwardResult result =
      Kernel(cell, tensors, {batch_sizes, lengths, reset}, {save, return_c, recompute});
  return std::tuple_cat(std::move(result.outputs),
                        std::make_tuple(std::move(result.saved), std::move(result.kept_output)));
}

// Kernel, a function like call_layer_backward, with the argument list of the schema.
template <auto Kernel>
LayerGradsTuple backward_kernel(
    std::string_view cell, const OptionalTensor& grad_output, const OptionalTensor& grad_h_n,
    const OptionalTensor& grad_c_n, const OptionalTensor& grad_c, const Tensor& input,
    const OptionalTensor& h_0, const OptionalTensor& c_0, const OptionalTensor& reset_h,
    const OptionalTensor& reset_c, const Tensor& weight_ih, const Tensor& weight_hh,
    const OptionalTensor& bias_ih, const OptionalTensor& bias_hh, const OptionalTensor& weight_hr,
    const OptionalTensor& weight_ih_reverse, const OptionalTensor& weight_hh_reverse,
    const OptionalTensor& bias_ih_reverse, const OptionalTensor& bias_hh_reverse,
    const OptionalTensor& weight_hr_reverse, const OptionalTensor& batch_sizes,
    const OptionalTensor& lengths, const OptionalTensor& reset, int64_t recompute,
    const Tensor& kept_output, const Tensor& saved, GradMask output_mask) {
  const LayerTensors tensors{input,
                             h_0,
                             c_0,
                             reset_h,
                             reset_c,
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
  return std::tuple_cat(Kernel(cell, OutputGrads{grad_output, grad_h_n, grad_c_n, grad_c}, tensors,
                               {batch_sizes, lengths, reset}, recompute, kept_output, saved,
                               output_mask));
}

// Kernel, a function like call_quantized_forward, with the argument list of the schema.
template <auto Kernel>
OutputsTuple quantized_kernel(
    std::string_view cell, const Tensor& input, const OptionalTensor& h_0,
    const OptionalTensor& c_0, const OptionalTensor& reset_h, const OptionalTensor& reset_c,
    const Tensor& weight_ih, const Tensor& weight_hh, const OptionalTensor& bias_ih,
    const OptionalTensor& bias_hh, const OptionalTensor& weight_hr,
    const OptionalTensor& weight_ih_reverse, const OptionalTensor& weight_hh_reverse,
    const OptionalTensor& bias_ih_reverse, const OptionalTensor& bias_hh_reverse,
    const OptionalTensor& weight_hr_reverse, const OptionalTensor& scale_ih,
    const OptionalTensor& scale_hh, const OptionalTensor& scale_hr,
    const OptionalTensor& scale_ih_reverse, const OptionalTensor& scale_hh_reverse,
    const OptionalTensor& scale_hr_reverse, const OptionalTensor& batch_sizes,
    const OptionalTensor& lengths, const OptionalTensor& reset, bool return_c) {
  const LayerTensors tensors{input,
                             h_0,
                             c_0,
                             reset_h,
                             reset_c,
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
  const WeightScales scales{scale_ih,         scale_hh,         scale_hr,
                            scale_ih_reverse, scale_hh_reverse, scale_hr_reverse};
  return std::tuple_cat(Kernel(cell, tensors, scales, {batch_sizes, lengths, reset}, return_c));
}

}  // namespace fusedrnn
