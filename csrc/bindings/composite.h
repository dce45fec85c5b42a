// layer_backward as a composition of torch operators: slow, and differentiable to any order.
#pragma once

#include "bindings/schema.h"

namespace fusedrnn {

// The gradients of the layer's tensors, as call_layer_backward returns them for a mask of the
// tensors present. Recomputes the forward pass, so that the result is a function of `grads` and
// `tensors` that autograd can follow. Arguments are trusted.
LayerGrads composite_layer_backward(std::string_view cell, const OutputGrads& grads,
                                    const LayerTensors& tensors, const OptionalTensor& batch_sizes);

}  // namespace fusedrnn
