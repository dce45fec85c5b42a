// Kernels that begin while the launch before theirs still runs (LaunchShape::programmatic): they
// load what that one does not write, then wait for its end. On devices before sm_90, and in a
// launch that waits for the one before anyway, both functions do nothing.
#pragma once

#include "cuda/device/thread.cuh"

namespace fusedrnn {

// The launch after may begin, as far as this block is concerned.
FUSEDRNN_DEV void launch_dependents() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Waits for the end of the launch before, and sees all that it wrote. Every block calls this, also
// one that has nothing to do, and stores nothing to global memory before it.
FUSEDRNN_DEV void wait_for_launch_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

}  // namespace fusedrnn
