#include "bindings/cuda_torch_runtime.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm_cuda_dispatch.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm_cuda_dispatch.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include "cuda/launch_graphs.h"

namespace fusedrnn {
namespace {

at::ScalarType to_scalar_type(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return at::kDouble;
    case DType::kBFloat16:
      return at::kBFloat16;
    case DType::kFloat16:
      return at::kHalf;
    case DType::kFloat32:
      break;
  }
  return at::kFloat;
}

// The stored matrix at `data` with row stride ld, seen as op of it.
at::Tensor matrix(c10::Device device, DType dtype, Transpose transpose, const void* data,
                  int64_t rows, int64_t cols, int64_t ld) {
  const bool plain = transpose == Transpose::kNo;
  return at::for_blob(const_cast<void*>(data), {rows, cols})
      .strides(plain ? at::IntArrayRef{ld, 1} : at::IntArrayRef{1, ld})
      .options(at::TensorOptions().dtype(to_scalar_type(dtype)).device(device))
      .target_device(device)  // told, not looked up by the pointer
      .make_tensor();
}

// Clears c of a product whose sums have no terms, because k is 0.
Status clear_empty_sum(const GemmArgs& product, cudaStream_t stream) {
  if (product.beta != 0) return {};
  const auto bytes = static_cast<size_t>(dtype_bytes(product.out));
  const cudaError_t error = cudaMemset2DAsync(product.c, static_cast<size_t>(product.ldc) * bytes,
                                              0, static_cast<size_t>(product.n) * bytes,
                                              static_cast<size_t>(product.m), stream);
  if (error == cudaSuccess) return {};
  cudaGetLastError();
  return Status::error("zeros of an empty product: %s", cudaGetErrorString(error));
}

Status copy(void* to, const void* from, size_t bytes, cudaStream_t stream) {
  cudaError_t error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream);
  if (error == cudaSuccess) error = cudaStreamSynchronize(stream);
  if (error == cudaSuccess) return {};
  cudaGetLastError();
  return Status::error("a copy of %zu bytes: %s", bytes, cudaGetErrorString(error));
}

}  // namespace

// Gives the memory of recorded steps back when torch has no other left.
class ReleaseGraphs final : public c10::FreeMemoryCallback {
 public:
  bool Execute() override { return LaunchGraphs::release_all(); }
};

TorchCudaRuntime::TorchCudaRuntime(c10::Device device)
    : device_(device), stream_(c10::cuda::getCurrentCUDAStream(device.index()).stream()) {}

Status TorchCudaRuntime::gemm(const GemmArgs& product) {
  if (product.m == 0 || product.n == 0) return {};
  if (product.k == 0) return clear_empty_sum(product, static_cast<cudaStream_t>(stream_));
  const at::Tensor left =
      matrix(device_, product.in, product.trans_a, product.a, product.m, product.k, product.lda);
  const at::Tensor right =
      matrix(device_, product.in, product.trans_b, product.b, product.k, product.n, product.ldb);
  at::Tensor result =
      matrix(device_, product.out, Transpose::kNo, product.c, product.m, product.n, product.ldc);
  const at::ScalarType out = to_scalar_type(product.out);
  const bool widens = product.in != product.out;
  if (product.beta == 0) {
    if (widens) {
      at::cuda::mm_out(result, left, right, out);
    } else {
      at::cuda::mm_out(result, left, right);
    }
  } else if (widens) {
    at::cuda::addmm_out(result, result, left, right, out, product.beta, 1);
  } else {
    at::cuda::addmm_(result, left, right, product.beta, 1);
  }
  return {};
}

Status TorchCudaRuntime::launch_together(const KernelSequence& sequence) {
  bool at_once = false;
  const Status status =
      LaunchGraphs::of_device(device_.index()).launch(sequence, stream_, &at_once);
  launched_graph_ = launched_graph_ || at_once;
  return status;
}

Status TorchCudaRuntime::to_device(void* device, const void* host, size_t bytes) {
  return copy(device, host, bytes, static_cast<cudaStream_t>(stream_));
}

Status TorchCudaRuntime::to_host(void* host, const void* device, size_t bytes) {
  return copy(host, device, bytes, static_cast<cudaStream_t>(stream_));
}

void* TorchCudaRuntime::allocate(size_t bytes) {
  buffers_.push_back(c10::cuda::CUDACachingAllocator::get()->allocate(bytes));
  return buffers_.back().get();
}

}  // namespace fusedrnn

namespace c10 {
REGISTER_FREE_MEMORY_CALLBACK("fusedrnn_launch_graphs", fusedrnn::ReleaseGraphs)
}  // namespace c10
