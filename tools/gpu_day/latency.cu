// Latencies that decide how a persistent kernel should synchronise, on the GPU at hand, one JSON
// line a figure: cooperative grid.sync; a barrier by a counter; cluster.sync, also after a store
// into a peer's shared memory. facts.cu has the all-gathers.
//
//   nvcc -O3 -std=c++17 -arch=sm_90a -o latency latency.cu
#include <cooperative_groups.h>

#include "measure.cuh"

namespace {

namespace cg = cooperative_groups;
constexpr int kSteps = 2000;

__global__ void grid_sync(unsigned*) {
  cg::grid_group grid = cg::this_grid();
  for (int step = 0; step < kSteps; ++step) grid.sync();
}

// `counter` is 0 at first.
__global__ void counter_barrier(unsigned* counter) {
  for (int step = 1; step <= kSteps; ++step) {
    __syncthreads();
    if (threadIdx.x == 0) {
      asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
      unsigned seen;
      do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
      } while (seen < step * gridDim.x);
    }
    __syncthreads();
  }
}

__global__ void cluster_sync(bool store) {
  extern __shared__ float buffer[];
  cg::cluster_group cluster = cg::this_cluster();
  const unsigned peer = (cluster.block_rank() + 1) % cluster.num_blocks();
  float* remote = cluster.map_shared_rank(buffer, peer);
  cluster.sync();
  for (int step = 0; step < kSteps; ++step) {
    if (store) remote[threadIdx.x] = static_cast<float>(step);
    cluster.sync();
  }
}

void time_grid(int blocks, unsigned* counter) {
  const auto us_of = [&](void (*kernel)(unsigned*)) {
    return median_us(kSteps, [&] {
      must(cudaMemsetAsync(counter, 0, sizeof *counter));
      void* args[] = {&counter};
      must(cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(kernel), blocks, kThreads,
                                       args, 0, 0));
    });
  };
  std::printf(
      "{\"latency\": \"grid\", \"blocks\": %d, \"grid_sync_us\": %.3f, \"counter_us\": %.3f}\n",
      blocks, us_of(grid_sync), us_of(counter_barrier));
}

void time_cluster(int size, bool store) {
  must(cudaFuncSetAttribute(cluster_sync, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  cudaLaunchAttribute attribute;
  const cudaLaunchConfig_t config = launch_config(size, size, kThreads * sizeof(float), &attribute);
  const double us =
      median_us(kSteps, [&] { must(cudaLaunchKernelEx(&config, cluster_sync, store)); });
  std::printf("{\"latency\": \"cluster\", \"size\": %d, \"remote_store\": %s, \"us\": %.3f}\n",
              size, store ? "true" : "false", us);
}

}  // namespace

int main() {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // what a limit cuts off leaves its lines
  cudaDeviceProp properties;
  must(cudaGetDeviceProperties(&properties, 0));
  std::printf("{\"device\": \"%s\", \"sms\": %d}\n", properties.name,
              properties.multiProcessorCount);
  auto* const counter = device_memory<unsigned>(1);
  for (int size : {2, 4, 8, 16}) {
    for (bool store : {false, true}) time_cluster(size, store);
  }
  for (int blocks : {2, 8, 16, 32, 64, 128, properties.multiProcessorCount}) {
    time_grid(blocks, counter);
  }
}
