// layer_forward and layer_backward without kernels: on a device or for a dtype that has none, they
// are compositions of torch operators.
#pragma once

#include "bindings/checks.h"

namespace fusedrnn {

ForwardResult composed_forward(const CheckedLayer& layer, const Keep& keep);
LayerGrads composed_backward(const CheckedLayer& layer, const CheckedGrads& given,
                             const GradMask& mask);

}  // namespace fusedrnn
