// The operators as compositions of torch operators: slow, and differentiable to any order. They
// compute what no kernel does: derivatives along a direction, and layers of complex numbers.
#pragma once

#include <vector>

#include "bindings/dual.h"
#include "bindings/schema.h"

namespace fusedrnn {

// An element is undefined where there is no tensor.
using DualTensors = std::array<Dual, kLayerTensorCount>;
using DualOutputs = std::array<Dual, kOutputCount>;
using DualGrads = std::array<Dual, kGradCount>;

struct CompositeLayer {
  DualTensors tensors;
  at::Tensor gates_x, gates_r;  // slopes of the pre-activations of all steps, as their gradients
};

// The results of layer_forward but what it keeps. Arguments are trusted.
DualOutputs composite_forward(std::string_view cell, const CompositeLayer& layer,
                              const Sequence& sequence, bool return_c);

struct CompositeBackward {
  DualOutputs outputs;
  DualGrads grads;  // for a mask of the tensors present
};
// The results of layer_backward, from its arguments alone: it runs the forward pass again.
CompositeBackward composite_backward(std::string_view cell, const DualOutputs& output_grads,
                                     const CompositeLayer& layer, const Sequence& sequence);

// The operator activate_gates of library.cpp.
std::vector<at::Tensor> activate_gates(std::string_view cell, const at::Tensor& x,
                                       const at::Tensor& r, const OptionalTensor& h,
                                       const OptionalTensor& c, const OptionalTensor& params);

}  // namespace fusedrnn
