// The simulator's twin of csrc/cuda/device/thread.cuh.
#pragma once

#include <cstdint>
#include <cstring>

#include "meeting.h"
#include "scheduler.h"

#define FUSEDRNN_DEV inline

namespace fusedrnn {

FUSEDRNN_DEV int thread_idx() { return cudasim::self->idx; }
FUSEDRNN_DEV int num_threads() { return cudasim::shape().threads; }
FUSEDRNN_DEV int lane_idx() { return cudasim::self->idx % kWarpSize; }
FUSEDRNN_DEV int warp_idx() { return cudasim::self->idx / kWarpSize; }

FUSEDRNN_DEV int64_t block_idx_x() { return cudasim::self->block->x; }
FUSEDRNN_DEV int64_t block_idx_y() { return cudasim::self->block->y; }
FUSEDRNN_DEV int64_t block_idx_z() { return cudasim::self->block->z; }
FUSEDRNN_DEV int64_t grid_dim_x() { return cudasim::shape().grid_x; }
FUSEDRNN_DEV int64_t grid_dim_y() { return cudasim::shape().grid_y; }
FUSEDRNN_DEV int64_t grid_dim_z() { return cudasim::shape().grid_z; }

FUSEDRNN_DEV void sync_block() { cudasim::sync_block(); }
FUSEDRNN_DEV void sync_warp() { cudasim::sync_warp(); }

template <class T>
FUSEDRNN_DEV T shuffle_from(T value, int source, const char* what, int parameter) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves 8 bytes at most");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = cudasim::shuffle(bits, source, what, parameter);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}
template <class T>
FUSEDRNN_DEV T shuffle_xor(T value, int mask) {
  return shuffle_from(value, lane_idx() ^ mask, "shuffle_xor", mask);
}
template <class T>
FUSEDRNN_DEV T shuffle_down(T value, int delta) {
  const int source = lane_idx() + delta;
  return shuffle_from(value, source < kWarpSize ? source : lane_idx(), "shuffle_down", delta);
}

FUSEDRNN_DEV bool any_of_warp(bool value) {
  cudasim::collective("any_of_warp", 0, &value, [](void* const* lanes) {
    bool any = false;
    for (int i = 0; i < kWarpSize; ++i) any = any || *static_cast<bool*>(lanes[i]);
    for (int i = 0; i < kWarpSize; ++i) *static_cast<bool*>(lanes[i]) = any;
  });
  return value;
}

}  // namespace fusedrnn
