// The simulator's twin of csrc/cuda/device/cluster.cuh.
#pragma once

#include <cstdint>

#include "cuda/device/barrier.cuh"
#include "cuda/device/packet.h"
#include "cuda/device/shared.cuh"
#include "cuda/device/thread.cuh"

namespace fusedrnn {

FUSEDRNN_DEV int cluster_rank() { return cudasim::self->block->rank; }
FUSEDRNN_DEV int cluster_size() { return cudasim::shape().cluster; }
FUSEDRNN_DEV void sync_cluster() { cudasim::sync_cluster(); }

template <class T>
FUSEDRNN_DEV void store_async(const Shared<T>& to, int64_t i, const Packet<T>& packet,
                              const Mbarrier& barrier, int rank) {
  cudasim::store_async(to.address(i), &packet, barrier.address(), rank);
}

}  // namespace fusedrnn
