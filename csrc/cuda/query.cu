// What a plan needs to know of a device, and what this library was built for.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>

#include "cuda/cuda_library.h"

namespace fusedrnn {

Status query_cuda(int device, CudaInfo* info) {
  cudaError_t error = cudaSuccess;
  const auto attribute = [&](cudaDeviceAttr which) {
    int value = 0;
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&value, which, device);
    return value;
  };
  *info = {};
  info->sm_arch = 10 * attribute(cudaDevAttrComputeCapabilityMajor);
  info->sm_arch += attribute(cudaDevAttrComputeCapabilityMinor);
  info->sm_count = attribute(cudaDevAttrMultiProcessorCount);
  info->smem_bytes_per_block = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  info->smem_bytes_per_sm = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  info->l2_bytes = attribute(cudaDevAttrL2CacheSize);
  info->clock_ghz = attribute(cudaDevAttrClockRate) * 1e-6;  // of kHz
  // There are two transfers a clock, of so many bits each.
  info->memory_bytes_per_second = 2e3 * attribute(cudaDevAttrMemoryClockRate) *
                                  (attribute(cudaDevAttrGlobalMemoryBusWidth) / 8.0);
  cudaDeviceProp properties;
  if (error == cudaSuccess) error = cudaGetDeviceProperties(&properties, device);
  if (error != cudaSuccess) {
    cudaGetLastError();
    return Status::error("CUDA device %d: %s", device, cudaGetErrorString(error));
  }
  std::snprintf(info->name, sizeof(info->name), "%s", properties.name);
  return {};
}

const char* cuda_architectures() {
  struct Text {
    char text[128] = {0};
    Text() {
      size_t length = 0;
      for (int arch : {__CUDA_ARCH_LIST__}) {
        length +=
            static_cast<size_t>(std::snprintf(text + length, sizeof(text) - length, "%s%d.%d",
                                              length > 0 ? ", " : "", arch / 100, arch / 10 % 10));
        if (length >= sizeof(text)) break;
      }
    }
  };
  static const Text architectures;
  return architectures.text;
}

}  // namespace fusedrnn
