#include "block.h"

namespace cudasim {

using fusedrnn::kWarpSize;

Cluster::Cluster(RunningLaunch* of_launch, const fusedrnn::LaunchShape& shape, int64_t idx)
    : launch(of_launch),
      clocks(shape.cluster * shape.threads, shape.cluster * kMaxMbarriers),
      blocks(shape.cluster) {
  const int64_t clusters_x = shape.grid_x / shape.cluster;
  living = shape.cluster * shape.threads;
  for (int rank = 0; rank < shape.cluster; ++rank) {
    Block& block = blocks[rank];
    block.cluster = this;
    block.rank = rank;
    block.x = idx % clusters_x * shape.cluster + rank;
    block.y = idx / clusters_x % shape.grid_y;
    block.z = idx / clusters_x / shape.grid_y;
    block.idx = (block.z * shape.grid_y + block.y) * shape.grid_x + block.x;
    block.living = shape.threads;
    block.smem = std::make_unique<SharedMemory>(shape.smem_bytes);
    block.warps = std::vector<Warp>(shape.threads / kWarpSize);
    for (size_t w = 0; w < block.warps.size(); ++w) {
      Warp& warp = block.warps[w];
      warp.block = &block;
      warp.ready = ~uint32_t{0};
      warp.living = kWarpSize;
      warp.threads = std::vector<Thread>(kWarpSize);
      for (int lane = 0; lane < kWarpSize; ++lane) {
        Thread& thread = warp.threads[lane];
        thread.block = &block;
        thread.idx = static_cast<int>(w) * kWarpSize + lane;
        thread.clock = rank * shape.threads + thread.idx;
      }
    }
  }
}

}  // namespace cudasim
