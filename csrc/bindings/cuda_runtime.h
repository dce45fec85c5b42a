// torch's matrix products, memory and stream as the CUDA library's runtime.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/Device.h>

#include <vector>

#include "cuda/runtime.h"

namespace fusedrnn {

// For the current stream of `device`, which must be the current device while this lives. Memory
// goes back to torch's allocator with it, for later work on the same stream.
class TorchCudaRuntime final : public CudaRuntime {
 public:
  explicit TorchCudaRuntime(c10::Device device);
  Status gemm(const CudaProduct& product) override;
  void* scratch(size_t bytes) override;
  void* stream() override { return stream_; }

 private:
  c10::Device device_;
  void* stream_;
  std::vector<c10::DataPtr> buffers_;
};

}  // namespace fusedrnn
