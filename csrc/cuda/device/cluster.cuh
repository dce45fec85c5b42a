// Clusters: blocks that run at the same time and write into one another's shared memory. Needs
// sm_90 and a launch with LaunchShape::cluster.
#pragma once

#include <cstdint>

#include "cuda/device/barrier.cuh"
#include "cuda/device/packet.h"
#include "cuda/device/shared.cuh"
#include "cuda/device/thread.cuh"
#include "math/scalar.h"

namespace fusedrnn {

FUSEDRNN_DEV int cluster_rank() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
#else
  return 0;
#endif
}

FUSEDRNN_DEV int cluster_size() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  uint32_t size;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return static_cast<int>(size);
#else
  return 1;
#endif
}

// Every living thread of the cluster arrives before one leaves; orders their memory. Costs a
// fence of the whole GPU: at a kernel's start and end, not within its loop.
FUSEDRNN_DEV void sync_cluster() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#else
  __trap();
#endif
}

// Stores the packet at elements i .. of `to`, and counts 16 bytes on `barrier`, both in block
// `rank` of the cluster at the addresses they have here. Returns at once; who waits there for the
// barrier's phase sees the bytes. That block must not have ended.
template <class T>
FUSEDRNN_DEV void store_async(const Shared<T>& to, int64_t i, const Packet<T>& packet,
                              const Mbarrier& barrier, int rank) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const uint4 bits = bit_cast<uint4>(packet);
  asm volatile(
      "{\n"
      ".reg .b32 there, barrier_there;\n"
      "mapa.shared::cluster.u32 there, %0, %2;\n"
      "mapa.shared::cluster.u32 barrier_there, %1, %2;\n"
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [there], {%3, %4, %5, %6}, "
      "[barrier_there];\n"
      "}\n" ::"r"(to.address(i)),
      "r"(barrier.address()), "r"(rank), "r"(bits.x), "r"(bits.y), "r"(bits.z), "r"(bits.w)
      : "memory");
#else
  __trap();
#endif
}

}  // namespace fusedrnn
