// What a plan needs to know of a device, and what this library was built for.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstring>

#include "cuda/cuda_library.h"
#include "cuda/device/launch_shape.h"

namespace fusedrnn {

namespace {

// 90 for compute capability 9.0.
int newest_compiled_arch() {
  int newest = 0;
  for (int arch : {__CUDA_ARCH_LIST__}) newest = arch > newest ? arch : newest;
  return newest / 10;
}

}  // namespace

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
  info->registers_per_sm = attribute(cudaDevAttrMaxRegistersPerMultiprocessor);
  info->cooperative = attribute(cudaDevAttrCooperativeLaunch) != 0;
  // The most of the architecture; whether so many fit at once is asked of a kernel.
  const bool has_clusters = attribute(cudaDevAttrClusterLaunch) != 0;
  info->max_cluster = !has_clusters ? 1 : info->sm_arch / 10 == 12 ? 8 : kMaxCluster;
  // Code of an older architecture, compiled anew for a later one, would not wait.
  info->programmatic = info->sm_arch >= 90 && newest_compiled_arch() >= 90;
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
