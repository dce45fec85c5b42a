// Layers with quantized weights: what the kernels do not read is made float32 again.
#pragma once

#include "bindings/checks.h"

namespace fusedrnn {

// Returns the layer with float32 weights.
CheckedLayer dequantize(const CheckedLayer& layer);

}  // namespace fusedrnn
