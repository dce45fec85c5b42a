// Entry points of the CUDA library. The bindings also include cuda_layer_runtime.h, which they
// implement, launch_graphs.h and self_test.h.
#pragma once

#include "common/args.h"
#include "common/status.h"
#include "cuda/cuda_layer_runtime.h"
#include "plan/cuda_plan.h"

namespace fusedrnn {

// They run one layer in all of its directions over a whole sequence. args[0 .. directions) differ
// in direction, buffers and accumulate_grad_input only; pointers are to device memory, except
// shape.batch_sizes, which is the host's. Arguments are trusted: bindings/checks.h has checked
// them. B = 0 and N = 0 are allowed. The plan is of the same pass.
//
// Everything is enqueued on the runtime's stream, on the current device: nothing waits for the
// device, so a call may be captured in a CUDA graph. An error names the kernel that was refused.
Status layer_forward_cuda(const LayerForwardArgs* args, int directions, const CudaPlan& plan,
                          CudaRuntime& runtime);
// forward_plan is that of the forward pass, which runs again with recompute; else it is not read.
Status layer_backward_cuda(const LayerBackwardArgs* args, int directions, const CudaPlan& plan,
                           const CudaPlan& forward_plan, CudaRuntime& runtime);

// What a plan needs to know of a device; allow_tf32 is left false.
Status query_cuda(int device, CudaInfo* info);

// Compute capabilities this library has kernels for, as "7.5, 8.0, 9.0".
const char* cuda_architectures();

}  // namespace fusedrnn
