// What the kernels of several schedules do within a block.
#pragma once

#include "cuda/device/programmatic.cuh"
#include "cuda/device/shared.cuh"
#include "cuda/device/thread.cuh"

namespace fusedrnn {

// The barriers of a kernel, by number, and the wait for the launch before, so that a test can take
// one away.
struct BlockBarriers {
  template <int kBarrier>
  static FUSEDRNN_DEV void wait() {
    sync_block();
  }
  static FUSEDRNN_DEV void wait_for_launch() { wait_for_launch_before(); }
};

// values = elements i .. i + kCount - 1, where i is a multiple of kCount.
template <class T, int kCount>
FUSEDRNN_DEV void load_consecutive(const Shared<T>& smem, int64_t i, T (&values)[kCount]) {
  constexpr int kPacket = Packet<T>::kSize;
  if constexpr (kCount % kPacket == 0) {
#pragma unroll
    for (int j = 0; j < kCount; j += kPacket) {
      const Packet<T> packet = smem.load_packet(i + j);
#pragma unroll
      for (int lane = 0; lane < kPacket; ++lane) values[j + lane] = packet[lane];
    }
  } else {
#pragma unroll
    for (int j = 0; j < kCount; ++j) values[j] = smem.load(i + j);
  }
}

}  // namespace fusedrnn
