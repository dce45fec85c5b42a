// torch's matrix products, memory and stream as the CUDA library's runtime.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/Device.h>

#include <vector>

#include "cuda/cuda_layer_runtime.h"

namespace fusedrnn {

// A runtime for the current stream of `device`, which must be the current device while this lives.
// Memory goes back to torch's allocator with it, for later work on the same stream.
class TorchCudaRuntime final : public RuntimeWithCopies {
 public:
  explicit TorchCudaRuntime(c10::Device device);
  Status gemm(const GemmArgs& product) override;
  void* allocate(size_t bytes) override;
  void* stream() override { return stream_; }
  Status to_device(void* device, const void* host, size_t bytes) override;
  Status to_host(void* host, const void* device, size_t bytes) override;
  Status launch_together(const KernelSequence& sequence) override;

  // Whether kernels that came together were one launch.
  bool launched_graph() const { return launched_graph_; }

 private:
  c10::Device device_;
  void* stream_;
  bool launched_graph_ = false;
  std::vector<c10::DataPtr> buffers_;
};

}  // namespace fusedrnn
