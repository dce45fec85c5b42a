// Where a thread stands in the grid, and how the threads of a block and of a warp meet.
// Blocks are one-dimensional. Warp functions take every thread of the warp.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

// Marks a function that only device code calls.
#define FUSEDRNN_DEV __device__ __forceinline__

namespace fusedrnn {

constexpr unsigned kFullWarp = 0xFFFFFFFFu;

FUSEDRNN_DEV int thread_idx() { return static_cast<int>(threadIdx.x); }
FUSEDRNN_DEV int num_threads() { return static_cast<int>(blockDim.x); }
FUSEDRNN_DEV int lane_idx() { return static_cast<int>(threadIdx.x & 31u); }
FUSEDRNN_DEV int warp_idx() { return static_cast<int>(threadIdx.x >> 5); }

FUSEDRNN_DEV int64_t block_idx_x() { return blockIdx.x; }
FUSEDRNN_DEV int64_t block_idx_y() { return blockIdx.y; }
FUSEDRNN_DEV int64_t block_idx_z() { return blockIdx.z; }
FUSEDRNN_DEV int64_t grid_dim_x() { return gridDim.x; }
FUSEDRNN_DEV int64_t grid_dim_y() { return gridDim.y; }
FUSEDRNN_DEV int64_t grid_dim_z() { return gridDim.z; }

// Every living thread of the block arrives before one leaves; orders shared and global memory
// among them.
FUSEDRNN_DEV void sync_block() { __syncthreads(); }
// Every thread of the warp arrives before one leaves; orders memory among them.
FUSEDRNN_DEV void sync_warp() { __syncwarp(kFullWarp); }

// The value of lane (lane_idx() ^ mask). Orders no memory.
template <class T>
FUSEDRNN_DEV T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(kFullWarp, value, mask);
}
// The value of lane (lane_idx() + delta), or one's own past the end of the warp.
template <class T>
FUSEDRNN_DEV T shuffle_down(T value, int delta) {
  return __shfl_down_sync(kFullWarp, value, delta);
}

// Whether `value` is true in any lane. Orders no memory.
FUSEDRNN_DEV bool any_of_warp(bool value) { return __any_sync(kFullWarp, value) != 0; }

}  // namespace fusedrnn
