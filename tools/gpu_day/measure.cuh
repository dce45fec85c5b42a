// What facts.cu and latency.cu share: an error ends the program with a line that says where, and a
// figure is the median of several launches.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

constexpr int kThreads = 256;  // of every block

inline void must(cudaError_t error, int line = __builtin_LINE(),
                 const char* file = __builtin_FILE()) {
  if (error == cudaSuccess) return;
  std::printf("{\"error\": \"%s:%d %s\"}\n", file, line, cudaGetErrorString(error));
  std::fflush(stdout);
  std::exit(1);
}

template <class T>
T* device_memory(size_t count) {
  T* memory = nullptr;
  must(cudaMalloc(&memory, count * sizeof(T)));
  must(cudaMemset(memory, 0, count * sizeof(T)));
  return memory;
}

// Microseconds a step of `launch`, which enqueues `steps` of them on the stream: the median of
// seven, after two that warm up.
template <class Launch>
double median_us(int steps, const Launch& launch, cudaStream_t stream = nullptr) {
  cudaEvent_t start, stop;
  must(cudaEventCreate(&start));
  must(cudaEventCreate(&stop));
  std::vector<double> samples;
  for (int run = 0; run < 9; ++run) {
    must(cudaEventRecord(start, stream));
    launch();
    must(cudaGetLastError());
    must(cudaEventRecord(stop, stream));
    must(cudaEventSynchronize(stop));
    float ms = 0;
    must(cudaEventElapsedTime(&ms, start, stop));
    if (run >= 2) samples.push_back(ms * 1e3 / steps);
  }
  must(cudaEventDestroy(start));
  must(cudaEventDestroy(stop));
  std::sort(samples.begin(), samples.end());
  return samples[samples.size() / 2];
}

// A launch of so many blocks, in clusters if there is more than one block in each.
inline cudaLaunchConfig_t launch_config(int blocks, int cluster, size_t smem_bytes,
                                        cudaLaunchAttribute* attribute) {
  cudaLaunchConfig_t config = {};
  config.gridDim = blocks;
  config.blockDim = kThreads;
  config.dynamicSmemBytes = smem_bytes;
  attribute->id = cudaLaunchAttributeClusterDimension;
  attribute->val.clusterDim.x = cluster;
  attribute->val.clusterDim.y = attribute->val.clusterDim.z = 1;
  config.attrs = attribute;
  config.numAttrs = cluster > 1 ? 1 : 0;
  return config;
}
