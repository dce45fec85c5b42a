// Where a kernel is enqueued. Plain C++: host drivers, kernel launchers and the simulator share it.
#pragma once

#include "common/status.h"

struct cudaLaunchConfig_st;

namespace fusedrnn {

// A kernel as launch.cuh is about to launch it. Nothing of it outlives the call.
struct KernelLaunch {
  const void* entry;                  // the __global__ function
  const cudaLaunchConfig_st* config;  // a cudaLaunchConfig_t; its stream is not read
  void** arguments;                   // pointers to its parameters
  const char* name;                   // for messages
};

// Takes kernels in place of a stream.
class KernelRecorder {
 public:
  virtual ~KernelRecorder() = default;
  virtual Status record(const KernelLaunch& kernel) = 0;
};

// A cudaStream_t, null being the default one; or what records the kernels instead.
struct Stream {
  Stream(void* cuda_stream = nullptr) : handle(cuda_stream) {}
  explicit Stream(KernelRecorder* kernel_recorder) : recorder(kernel_recorder) {}

  void* handle = nullptr;
  KernelRecorder* recorder = nullptr;
};

}  // namespace fusedrnn
