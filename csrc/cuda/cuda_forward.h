// The forward pass over all directions of a layer, for layer_forward_cuda, and for backward, which
// with recompute runs parts of it again.
#pragma once

#include <vector>

#include "cuda/cuda_layer.h"

namespace fusedrnn {

class CudaForwardPass {
 public:
  // args[d] is of direction d, and outlives this. Where h_n is null, output is only read.
  CudaForwardPass(const LayerForwardArgs* args, int directions, const CudaPlan& plan,
                  const CudaKernels& kernels, CudaRuntime& runtime);

  Status run();

  // What a direction saves of steps that run again, and what they start from.
  struct Rerun {
    const void* c;            // A [B, H], c that enters the first of them; null for step 0
    void* saved;              // S [rows, W, H]
    int64_t saved_first_row;  // the row of the sequence that `saved` begins with
  };
  // Runs the sweep steps [begin, end) again, with the same products and kernels as before.
  Status rerun(int64_t begin, int64_t end, const Rerun (&reruns)[kMaxDirections]);

 private:
  void prepare();
  void run_steps(int64_t begin, int64_t end);
  void project_input(int64_t chunk);
  ForwardBuffers buffers_at(int d, int64_t s) const;
  void sweep(int64_t begin, int64_t end);
  ForwardStepArgs step_args(int64_t s) const;
  void steps_together(int64_t begin, int64_t end);
  void step(int64_t s);
  void multiply_h(int d, const StepRows& step);
  const void* multiply_state(int d, const void* h);
  void multiply_h(int d, int64_t rows, Matrix h, void* product);
  void project_h(int d, const StepRows& step);
  void end_rows();

  const LayerForwardArgs* args_;
  const LayerShape* shapes_[kMaxDirections];
  CudaLayer layer_;
  LayerSizes sizes_{};
  ForwardBuffers buffers_[kMaxDirections]{};
  void* gx_[kMaxDirections]{};
  void* product_[kMaxDirections]{};
  int64_t projected_chunk_ = -1;  // the first step of the chunk in gx_
  int64_t restart_ = -1;          // the first step of a rerun
  const void* restart_c_[kMaxDirections]{};
};

}  // namespace fusedrnn
