// The schemas of library.cpp in C++: their arguments as they are given, and with a place for each
// tensor.
#pragma once

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <string_view>
#include <tuple>
#include <vector>

#include "cells/registry.h"

namespace fusedrnn {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// The tensors of a layer that can have a gradient. Those that are present have the order in which
// the schemas' lists hold them: input, hx, weights, what replaces states. Input and the forward
// direction's weight_ih and weight_hh are always present.
enum DirectionWeight : int {
  kWeightIh,
  kWeightHh,
  kBiasIh,
  kBiasHh,
  kWeightHr,
  kParams,  // of the cell
  kWeightCount,
};
enum LayerTensor : int {
  kInput,
  kH0,
  kC0,
  kWeights,  // those of the forward direction, then of the reverse one
  kResetH = kWeights + 2 * kWeightCount,
  kResetC,
  kLayerTensorCount,
};

// The place of a weight among the layer's tensors.
constexpr int weight_place(int direction, int weight) {
  return kWeights + direction * kWeightCount + weight;
}

// The scales of quantized weights: the three of the forward direction, then of the reverse one.
enum WeightScale : int { kScaleIh, kScaleHh, kScaleHr, kScaleCount };
using WeightScales = std::array<OptionalTensor, 2 * kScaleCount>;
// The weight that a scale belongs to.
constexpr DirectionWeight kScaled[kScaleCount] = {kWeightIh, kWeightHh, kWeightHr};

// The gradients that layer_backward computes: of those tensors, then of the pre-activations.
enum GatesGrad : int { kGradGatesX = kLayerTensorCount, kGradGatesR };
constexpr int kGradCount = kGradGatesR + 1;

using LayerTensors = std::array<OptionalTensor, kLayerTensorCount>;
using GradMask = std::array<bool, kGradCount>;
using LayerGrads = std::array<Tensor, kGradCount>;  // undefined where not wanted

// Which rows each step has, and where their states are reset.
struct Sequence {
  OptionalTensor batch_sizes, lengths, reset;
};

// What every operator of a layer is given.
struct LayerGiven {
  std::string_view cell;
  const Tensor& input;
  const OptionalTensor& h_0;
  const OptionalTensor& c_0;
  at::TensorList weights;
  const OptionalTensor& sizes;
  const OptionalTensor& reset;
  const OptionalTensor& reset_h;
  const OptionalTensor& reset_c;
};

// The same with a place for each tensor. Raises unless there is such a cell, and weights are as
// many as a layer of it has.
struct LayerPlaces {
  const CellInfo* cell;
  LayerTensors tensors;
  Sequence sequence;
  WeightScales scales;
};
LayerPlaces to_places(const LayerGiven& given);

// And back: the lists of the schemas; without scales.
std::vector<Tensor> weight_list(const LayerTensors& tensors);
const OptionalTensor& sizes_of(const Sequence& sequence);
inline LayerGiven to_given(std::string_view cell, const LayerTensors& tensors,
                           const Sequence& sequence, at::TensorList weights) {
  return {cell,           *tensors[kInput], tensors[kH0],
          tensors[kC0],   weights,          sizes_of(sequence),
          sequence.reset, tensors[kResetH], tensors[kResetC]};
}

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

struct BackwardArgs {
  std::string_view cell;
  OutputGrads grads;
  LayerTensors tensors;
  Sequence sequence;
  int64_t recompute;
  Tensor saved, kept_output;
  GradMask mask;  // of the tensors present, and of the pre-activations
};

// Calls the operators through the dispatcher.
ForwardResult call_layer_forward(const LayerGiven& layer, const Keep& keep);
LayerGrads call_layer_backward(const BackwardArgs& args);
Outputs call_quantized_forward(const LayerGiven& layer, bool return_c);

// The argument lists of the schemas, which the functions below adapt to those above.
using ForwardTuple = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using OutputsTuple = decltype(std::tuple_cat(Outputs()));
using GradList = c10::List<OptionalTensor>;
BackwardArgs to_backward_args(const LayerGiven& layer, const GradList& grads, int64_t recompute,
                              at::TensorList kept, const c10::List<bool>& mask);
std::vector<Tensor> wanted_grads(const BackwardArgs& args, LayerGrads&& grads);

// Kernel: a function like call_layer_forward.
template <auto Kernel>
ForwardTuple forward_kernel(std::string_view cell, const Tensor& input, const OptionalTensor& h_0,
                            const OptionalTensor& c_0, at::TensorList weights,
                            const OptionalTensor& sizes, const OptionalTensor& reset,
                            const OptionalTensor& reset_h, const OptionalTensor& reset_c, bool save,
                            bool return_c, int64_t recompute) {
  ForwardResult result = Kernel({cell, input, h_0, c_0, weights, sizes, reset, reset_h, reset_c},
                                {save, return_c, recompute});
  return std::tuple_cat(std::move(result.outputs),
                        std::make_tuple(std::move(result.saved), std::move(result.kept_output)));
}

// Kernel: a function like call_layer_backward.
template <auto Kernel>
std::vector<Tensor> backward_kernel(std::string_view cell, const GradList& grads,
                                    const Tensor& input, const OptionalTensor& h_0,
                                    const OptionalTensor& c_0, at::TensorList weights,
                                    const OptionalTensor& sizes, const OptionalTensor& reset,
                                    const OptionalTensor& reset_h, const OptionalTensor& reset_c,
                                    int64_t recompute, at::TensorList kept,
                                    const c10::List<bool>& mask) {
  const BackwardArgs args =
      to_backward_args({cell, input, h_0, c_0, weights, sizes, reset, reset_h, reset_c}, grads,
                       recompute, kept, mask);
  return wanted_grads(args, Kernel(args));
}

// Kernel: a function like call_quantized_forward.
template <auto Kernel>
OutputsTuple quantized_kernel(std::string_view cell, const Tensor& input, const OptionalTensor& h_0,
                              const OptionalTensor& c_0, at::TensorList weights,
                              const OptionalTensor& sizes, const OptionalTensor& reset,
                              const OptionalTensor& reset_h, const OptionalTensor& reset_c,
                              bool return_c) {
  return std::tuple_cat(
      Kernel({cell, input, h_0, c_0, weights, sizes, reset, reset_h, reset_c}, return_c));
}

}  // namespace fusedrnn
