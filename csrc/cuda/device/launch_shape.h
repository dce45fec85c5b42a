// What a launch asks for. Plain C++: host drivers, kernel launchers and the simulator share it.
#pragma once

#include <cstdint>

#include "common/status.h"

namespace fusedrnn {

// A cudaStream_t; null is the default stream. Drivers pass it on without CUDA's headers.
using Stream = void*;

// kWholeGrid: every block is on the device at once, or the launch fails. It is for kernels whose
// blocks wait for one another.
enum class Residency : int8_t { kAny, kWholeGrid };

struct LaunchShape {
  int64_t grid_x = 1, grid_y = 1, grid_z = 1;  // blocks
  int threads = 32;                            // of a block
  int64_t smem_bytes = 0;                      // dynamic shared memory of a block
  int cluster = 1;                             // blocks of a cluster, along x
  Residency residency = Residency::kAny;
  bool programmatic = false;  // may begin before the launch before has ended (programmatic.cuh)

  int64_t blocks() const { return grid_x * grid_y * grid_z; }
};

// The widest limits of any CUDA device; most have narrower ones.
constexpr int kWarpSize = 32;
constexpr int kMaxBlockThreads = 1024;
constexpr int kMaxCluster = 16;
constexpr int64_t kMaxGridX = 2147483647;
constexpr int64_t kMaxGridYZ = 65535;
constexpr int64_t kMaxSmemBytes = 227 * 1024;

// Whether `shape` can be launched at all, for a kernel compiled for up to max_threads.
inline Status check_launch_shape(const LaunchShape& shape, int max_threads, const char* kernel) {
  if (shape.grid_x < 0 || shape.grid_y < 0 || shape.grid_z < 0 || shape.grid_x > kMaxGridX ||
      shape.grid_y > kMaxGridYZ || shape.grid_z > kMaxGridYZ) {
    return Status::error("%s: a grid of %lld x %lld x %lld blocks, the most is %lld x %lld x %lld",
                         kernel, static_cast<long long>(shape.grid_x),
                         static_cast<long long>(shape.grid_y), static_cast<long long>(shape.grid_z),
                         static_cast<long long>(kMaxGridX), static_cast<long long>(kMaxGridYZ),
                         static_cast<long long>(kMaxGridYZ));
  }
  if (shape.threads < kWarpSize || shape.threads % kWarpSize != 0 || shape.threads > max_threads) {
    return Status::error("%s: %d threads a block, expected a multiple of %d up to %d", kernel,
                         shape.threads, kWarpSize, max_threads);
  }
  if (shape.cluster < 1 || shape.cluster > kMaxCluster || shape.grid_x % shape.cluster != 0) {
    return Status::error("%s: clusters of %d blocks in %lld, expected a divisor up to %d", kernel,
                         shape.cluster, static_cast<long long>(shape.grid_x), kMaxCluster);
  }
  if (shape.smem_bytes < 0 || shape.smem_bytes > kMaxSmemBytes) {
    return Status::error("%s: %lld bytes of shared memory a block, the most is %lld", kernel,
                         static_cast<long long>(shape.smem_bytes),
                         static_cast<long long>(kMaxSmemBytes));
  }
  return {};
}

}  // namespace fusedrnn
