// The operators as compositions of torch operators: slow, and differentiable to any order, in
// reverse and in forward mode.
#pragma once

#include "bindings/schema.h"

namespace fusedrnn {

// As call_layer_forward, with nothing saved. Arguments are trusted.
ForwardResult composite_layer_forward(std::string_view cell, const LayerTensors& tensors,
                                      const Sequence& sequence, bool return_c);

// The gradients of the layer's tensors, as call_layer_backward returns them for a mask of the
// tensors present. Runs the forward pass again, so that the result is a function of `grads` and
// `tensors` that autograd can follow. Arguments are trusted.
LayerGrads composite_layer_backward(std::string_view cell, const OutputGrads& grads,
                                    const LayerTensors& tensors, const Sequence& sequence);

}  // namespace fusedrnn
