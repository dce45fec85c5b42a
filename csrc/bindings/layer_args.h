// A checked layer as the kernels are given it: buffers for its results, and the arguments of each
// direction, the same for every device.
#pragma once

#include "bindings/checks.h"
#include "common/args.h"
#include "plan/problem.h"

namespace fusedrnn {

// `training` says that backward will be asked for, or that this is the backward.
Problem to_problem(const CheckedLayer& layer, bool training);

// What layer_forward and layer_backward compute, not filled in. Gradients that are not wanted stay
// undefined; those of a layer without rows are zeros.
ForwardResult empty_forward_result(const CheckedLayer& layer, const Keep& keep);
// Sets what backward reads of the output: it shares memory with the output until one is changed.
void keep_output(ForwardResult* result);
LayerGrads empty_grads(const CheckedLayer& layer, const GradMask& mask);

// The arguments of one direction: pointers into the results and into the layer's tensors.
LayerForwardArgs forward_args(const CheckedLayer& layer, const ForwardResult& result,
                              int direction);
LayerBackwardArgs backward_args(const CheckedLayer& layer, const CheckedGrads& given,
                                const LayerGrads& result, int direction);

}  // namespace fusedrnn
