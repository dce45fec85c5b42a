// Launches a kernel, which is a struct:
//
//   struct Kernel {
//     struct Args { ... };                         // plain data, passed by value
//     static constexpr const char* kName;          // for messages
//     static constexpr int kMaxThreads;            // of a block
//     static FUSEDRNN_DEV void run(const Args&);   // what a thread does
//   };
//
// The launch is asynchronous on the stream, or left to what records it, and allocates nothing. A
// grid without blocks is nothing to do. An error is CUDA's, with the kernel's name; it is not left
// behind for the next call that asks CUDA.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/status.h"
#include "cuda/device/launch_shape.h"
#include "cuda/device/thread.cuh"

namespace fusedrnn {

// Above this a kernel must ask for its shared memory.
constexpr int64_t kDefaultSmemBytes = 48 * 1024;
// Above this a cluster is not portable, and a kernel must ask for it.
constexpr int kPortableCluster = 8;

// Blocks of a kernel that an SM must have registers for: Kernel::kResidentBlocks, or else one.
template <class Kernel, class = int>
constexpr int kResidentBlocksOf = 1;
template <class Kernel>
constexpr int kResidentBlocksOf<Kernel, decltype(Kernel::kResidentBlocks, int{})> =
    Kernel::kResidentBlocks;

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kMaxThreads, kResidentBlocksOf<Kernel>)
    kernel_entry(const __grid_constant__ typename Kernel::Args args) {
  Kernel::run(args);
}

template <class Kernel>
Status launch(const LaunchShape& shape, const typename Kernel::Args& args, Stream stream) {
  static_assert(Kernel::kMaxThreads <= kMaxBlockThreads, "a block has 1024 threads at most");
  if (Status status = check_launch_shape(shape, Kernel::kMaxThreads, Kernel::kName); !status.ok) {
    return status;
  }
  if (shape.blocks() == 0) return {};
  const void* entry = reinterpret_cast<const void*>(&kernel_entry<Kernel>);

  cudaError_t error = cudaSuccess;
  if (shape.smem_bytes > kDefaultSmemBytes) {
    error = cudaFuncSetAttribute(entry, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(shape.smem_bytes));
  }
  if (error == cudaSuccess && shape.cluster > kPortableCluster) {
    error = cudaFuncSetAttribute(entry, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  }
  if (error == cudaSuccess) {
    cudaLaunchAttribute attributes[3];
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(shape.grid_x), static_cast<unsigned>(shape.grid_y),
                          static_cast<unsigned>(shape.grid_z));
    config.blockDim = dim3(static_cast<unsigned>(shape.threads));
    config.dynamicSmemBytes = static_cast<size_t>(shape.smem_bytes);
    config.stream = static_cast<cudaStream_t>(stream.handle);
    config.attrs = attributes;
    if (shape.cluster > 1) {
      attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
      attributes[config.numAttrs].val.clusterDim.x = static_cast<unsigned>(shape.cluster);
      attributes[config.numAttrs].val.clusterDim.y = 1;
      attributes[config.numAttrs++].val.clusterDim.z = 1;
    }
    if (shape.residency == Residency::kWholeGrid) {
      attributes[config.numAttrs].id = cudaLaunchAttributeCooperative;
      attributes[config.numAttrs++].val.cooperative = 1;
    }
    if (shape.programmatic) {
      attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
      attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
    }
    void* arguments[] = {const_cast<typename Kernel::Args*>(&args)};
    if (stream.recorder != nullptr) {
      return stream.recorder->record({entry, &config, arguments, Kernel::kName});
    }
    error = cudaLaunchKernelExC(&config, entry, arguments);
  }
  if (error == cudaSuccess) return {};
  cudaGetLastError();
  return Status::error(
      "%s: %s (grid %lld x %lld x %lld, %d threads, %lld bytes of shared memory, clusters of %d)",
      Kernel::kName, cudaGetErrorString(error), static_cast<long long>(shape.grid_x),
      static_cast<long long>(shape.grid_y), static_cast<long long>(shape.grid_z), shape.threads,
      static_cast<long long>(shape.smem_bytes), shape.cluster);
}

}  // namespace fusedrnn
