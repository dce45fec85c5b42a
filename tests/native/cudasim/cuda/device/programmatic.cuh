// The simulator's twin of csrc/cuda/device/programmatic.cuh.
#pragma once

#include "cuda/device/thread.cuh"

namespace fusedrnn {

FUSEDRNN_DEV void launch_dependents() { cudasim::launch_dependents(); }
FUSEDRNN_DEV void wait_for_launch_before() { cudasim::wait_for_launch_before(); }

}  // namespace fusedrnn
