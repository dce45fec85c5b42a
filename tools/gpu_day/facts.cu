// Facts that decide persistent schedules, on the GPU at hand, one JSON line a figure:
//   clusters   how many clusters are on the device at once, by their size and shared memory
//   gather     an all-gather of 16-byte packets over a cluster by st.async: us a step
//   grid       the same over the grid: relaxed packets that carry the number of their step
//   gaps       from kernel to kernel of a graph: plain edges, programmatic edges
//   mma        clocks of m16n8k16 of bfloat16 with A in registers
//   l2         bytes a clock and SM of a slice that stays in L2
// Each section checks what it moved: "wrong" counts what was not what it should be.
//
//   nvcc -O3 -std=c++17 -arch=sm_90a -o facts facts.cu
#include <cstdint>

#include "measure.cuh"

namespace {

__device__ __forceinline__ uint32_t smem_u32(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ __forceinline__ uint32_t map_rank(uint32_t address, uint32_t rank) {
  uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}
__device__ __forceinline__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

constexpr int kSteps = 2000;  // of an all-gather

// Each step every block sends `packets` packets to every block of the cluster and waits for all.
//   kStores     st.async, neighbouring lanes send neighbouring packets to one block
//   kScattered  st.async, neighbouring lanes send to different blocks
//   kBulk       one cp.async.bulk a block
enum Mode { kStores, kScattered, kBulk };
template <Mode kMode, bool kAcquireCluster>
__global__ void __launch_bounds__(kThreads, 1)
    gather(int cluster, int packets, int steps, unsigned* wrong) {
  extern __shared__ __align__(128) uint4 buffer[];  // [2, cluster * packets], then own [2, packets]
  __shared__ __align__(8) uint64_t full[2];
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  const int total = cluster * packets;
  const uint32_t bytes = total * 16;
  if (threadIdx.x == 0) {
    for (int b = 0; b < 2; ++b) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(smem_u32(&full[b])) : "memory");
      asm volatile(
          "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_u32(&full[b])),
          "r"(bytes)
          : "memory");
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  cluster_sync();
  unsigned bad = 0;
  for (int step = 0; step < steps; ++step) {
    const int b = step & 1;
    const uint32_t bar = smem_u32(&full[b]), parity = (step >> 1) & 1;
    if (kMode == kBulk) {
      uint4* const own = buffer + 2 * total + b * packets;
      const uint32_t value = step * 64 + rank;
      for (int p = threadIdx.x; p < packets; p += kThreads)
        own[p] = make_uint4(value, value, value, value);
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
      __syncthreads();
      if (threadIdx.x < cluster) {
        const uint32_t at = map_rank(smem_u32(buffer + b * total + rank * packets), threadIdx.x);
        asm volatile(
            "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], "
            "%2, [%3];" ::"r"(at),
            "r"(smem_u32(own)), "r"(packets * 16), "r"(map_rank(bar, threadIdx.x))
            : "memory");
      }
    }
    for (int i = threadIdx.x; kMode != kBulk && i < total; i += kThreads) {
      const int p = kMode == kStores ? i % packets : i / cluster;
      const int to = kMode == kStores ? i / packets : i % cluster;
      const uint32_t at = map_rank(smem_u32(buffer + b * total + rank * packets + p), to);
      asm volatile(
          "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %1, %1, %1}, "
          "[%2];" ::"r"(at),
          "r"(step * 64 + rank), "r"(map_rank(bar, to))
          : "memory");
    }
    uint32_t done = 0;
    while (done == 0) {
      if (kAcquireCluster) {
        asm volatile(
            "{\n.reg .pred p;\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], "
            "%2;\n"
            "selp.u32 %0, 1, 0, p;\n}"
            : "=r"(done)
            : "r"(bar), "r"(parity)
            : "memory");
      } else {
        asm volatile(
            "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, "
            "1, 0, p;\n}"
            : "=r"(done)
            : "r"(bar), "r"(parity)
            : "memory");
      }
    }
    if (threadIdx.x == 0) {
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes)
                   : "memory");
    }
    for (int i = threadIdx.x; i < total; i += kThreads) {
      const uint4 got = buffer[b * total + i];
      bad += got.w != static_cast<unsigned>(step * 64 + i / packets);
    }
    __syncthreads();  // all have read before this block lets the others go on
  }
  if (bad != 0) atomicAdd(wrong, bad);
  cluster_sync();
}

__global__ void __launch_bounds__(kThreads, 1) resident(int) {}

template <int kLoads>
__global__ void __launch_bounds__(kThreads, 1)
    grid_gather(uint4* buffer, int packets, unsigned first, int steps, unsigned* wrong) {
  const int total = packets * gridDim.x;  // kLoads * kThreads at most
  unsigned bad = 0;
  for (unsigned step = first; step < first + steps; ++step) {
    uint4* const from = buffer + (step & 1) * total;
    for (int p = threadIdx.x; p < packets; p += kThreads) {
      asm volatile("st.relaxed.gpu.global.v4.b32 [%0], {%1, %1, %1, %2};" ::"l"(
                       from + blockIdx.x * packets + p),
                   "r"(blockIdx.x), "r"(step)
                   : "memory");
    }
    uint4 got[kLoads];
    unsigned missing = (1u << kLoads) - 1;
    while (missing != 0) {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int p = threadIdx.x + i * kThreads;
        if (p >= total) {
          missing &= ~(1u << i);
        } else if (missing >> i & 1) {
          asm volatile("ld.relaxed.gpu.global.v4.b32 {%0, %1, %2, %3}, [%4];"
                       : "=r"(got[i].x), "=r"(got[i].y), "=r"(got[i].z), "=r"(got[i].w)
                       : "l"(from + p)
                       : "memory");
        }
      }
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int p = threadIdx.x + i * kThreads;
        if ((missing >> i & 1) && got[i].w == step) {
          missing &= ~(1u << i);
          bad += got[i].x != static_cast<unsigned>(p / packets);
        }
      }
    }
    __syncthreads();
  }
  if (bad != 0) atomicAdd(wrong, bad);
}

// Reads what the kernel before wrote; with a prologue that does not depend on it.
template <bool kProgrammatic>
__global__ void __launch_bounds__(kThreads)
    link(const float* weights, int weight_packets, const float* in, float* out) {
  extern __shared__ uint4 slice[];
  if (kProgrammatic) asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  const uint4* from = reinterpret_cast<const uint4*>(weights) + blockIdx.x * weight_packets;
  for (int i = threadIdx.x; i < weight_packets; i += kThreads) slice[i] = __ldg(from + i);
  __syncthreads();
  if (kProgrammatic) asm volatile("griddepcontrol.wait;" ::: "memory");
  const int i = blockIdx.x * kThreads + threadIdx.x;
  const int other = (i + kThreads) % (gridDim.x * kThreads);  // of another block
  float value;
  asm volatile("ld.relaxed.gpu.global.f32 %0, [%1];" : "=f"(value) : "l"(in + other) : "memory");
  out[i] = value + 1.f + (weight_packets > 0 ? __uint_as_float(slice[0].x) : 0.f);
}

double chain_us(bool programmatic, int blocks, int weight_bytes, int kernels) {
  const int smem = std::max(weight_bytes, 16), values = blocks * kThreads;
  float* const weights = device_memory<float>(static_cast<size_t>(blocks) * smem / 4);
  float *const a = device_memory<float>(values), *const b = device_memory<float>(values);
  auto kernel = programmatic ? link<true> : link<false>;
  must(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, smem));
  cudaStream_t stream;
  must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
  for (int k = 0; k < kernels; ++k) {
    cudaLaunchAttribute attribute;
    cudaLaunchConfig_t config = launch_config(blocks, 1, smem, &attribute);
    config.stream = stream;
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    config.numAttrs = programmatic ? 1 : 0;
    must(cudaLaunchKernelEx(&config, kernel, static_cast<const float*>(weights), weight_bytes / 16,
                            static_cast<const float*>(k % 2 ? b : a), k % 2 ? a : b));
  }
  cudaGraph_t graph;
  cudaGraphExec_t run;
  must(cudaStreamEndCapture(stream, &graph));
  must(cudaGraphInstantiate(&run, graph, 0));
  const double us = median_us(kernels, [&] { must(cudaGraphLaunch(run, stream)); }, stream);
  std::vector<float> last(blocks * kThreads);
  must(cudaMemcpy(last.data(), kernels % 2 ? b : a, last.size() * 4, cudaMemcpyDeviceToHost));
  for (float value : last) {
    if (value != 9.f * kernels) {
      std::printf("{\"error\": \"gaps: a kernel read what the one before had not written: %g\"}\n",
                  value);
      break;
    }
  }
  must(cudaGraphExecDestroy(run));
  must(cudaGraphDestroy(graph));
  must(cudaStreamDestroy(stream));
  for (float* p : {weights, a, b}) must(cudaFree(p));
  return us;
}

// `chains` accumulators a warp; A fragments from memory, so that the compiler keeps them.
template <int kChains>
__global__ void __launch_bounds__(kThreads, 1)
    mma(const uint32_t* in, float* out, long long* clocks, int rounds) {
  constexpr int kTiles = 4;
  uint32_t a[kChains][kTiles][4], b[kTiles][2];
  float c[kChains][4] = {};
  for (int i = 0; i < kChains; ++i)
    for (int t = 0; t < kTiles; ++t)
      for (int r = 0; r < 4; ++r)
        a[i][t][r] = in[((i * kTiles + t) * 4 + r) * 32 + threadIdx.x % 32];
  for (int t = 0; t < kTiles; ++t)
    for (int r = 0; r < 2; ++r) b[t][r] = in[(t * 2 + r) * 32 + threadIdx.x % 32];
  __syncthreads();
  const long long start = clock64();
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
#pragma unroll
      for (int i = 0; i < kChains; ++i)
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
            "{%8,%9}, "
            "{%0,%1,%2,%3};"
            : "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
            : "r"(a[i][t][0]), "r"(a[i][t][1]), "r"(a[i][t][2]), "r"(a[i][t][3]), "r"(b[t][0]),
              "r"(b[t][1]));
  }
  const long long stop = clock64();
  for (int i = 0; i < kChains; ++i)
    out[(blockIdx.x * kThreads + threadIdx.x) * kChains + i] =
        c[i][0] + c[i][1] + c[i][2] + c[i][3];
  if (threadIdx.x == 0) clocks[blockIdx.x] = stop - start;
}

template <int kChains>
void time_mma(int threads) {
  auto* const in = device_memory<uint32_t>(32 * (kChains * 4 * 4 + 8));
  auto* const out = device_memory<float>(kThreads * kChains);
  auto* const clocks = device_memory<long long>(1);
  long long host = 0;
  const int rounds = 500;
  for (int i = 0; i < 3; ++i) mma<kChains><<<1, threads>>>(in, out, clocks, rounds);
  must(cudaMemcpy(&host, clocks, 8, cudaMemcpyDeviceToHost));
  std::printf(
      "{\"fact\": \"mma\", \"warps\": %d, \"chains\": %d, \"clocks_per_mma_of_a_warp\": %.2f}\n",
      threads / 32, kChains, static_cast<double>(host) / (rounds * 4 * kChains));
  for (void* p : {static_cast<void*>(in), static_cast<void*>(out), static_cast<void*>(clocks)})
    must(cudaFree(p));
}

__global__ void __launch_bounds__(kThreads, 1)
    read_l2(const uint4* from, int packets, int rounds, unsigned* sink, long long* clocks) {
  unsigned sum = 0;
  const uint4* mine = from + static_cast<size_t>(blockIdx.x) * packets;
  const long long start = clock64();
  for (int round = 0; round < rounds; ++round) {
#pragma unroll 8
    for (int i = threadIdx.x; i < packets; i += kThreads) {
      uint4 got;
      asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(got.x), "=r"(got.y), "=r"(got.z), "=r"(got.w)
                   : "l"(mine + i));
      sum += got.x ^ got.y ^ got.z ^ got.w;
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) clocks[blockIdx.x] = clock64() - start;
  if (sum == 1) *sink = sum;
}

void time_clusters() {
  must(cudaFuncSetAttribute(resident, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
  for (int smem_kb : {1, 100, 200, 227}) {
    must(cudaFuncSetAttribute(resident, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              smem_kb * 1024));
    for (int size : {2, 4, 8, 12, 16}) {
      cudaLaunchAttribute attribute;
      const cudaLaunchConfig_t config = launch_config(size * 16, size, smem_kb * 1024, &attribute);
      int clusters = 0;
      const cudaError_t error = cudaOccupancyMaxActiveClusters(&clusters, resident, &config);
      if (error != cudaSuccess) cudaGetLastError();
      std::printf(
          "{\"fact\": \"clusters\", \"size\": %d, \"smem_kb\": %d, \"active\": %d, \"error\": "
          "\"%s\"}\n",
          size, smem_kb, clusters, error == cudaSuccess ? "" : cudaGetErrorString(error));
    }
  }
}

// What was wrong since it was asked for last.
unsigned take_wrong(unsigned* wrong) {
  unsigned host = 0;
  must(cudaMemcpy(&host, wrong, sizeof host, cudaMemcpyDeviceToHost));
  must(cudaMemset(wrong, 0, sizeof host));
  return host;
}

void time_gather(unsigned* wrong) {
  const struct {
    const char* name;
    const char* acquire;
    void (*kernel)(int, int, int, unsigned*);
  } ways[] = {{"stores", "cta", gather<kStores, false>},
              {"stores", "cluster", gather<kStores, true>},
              {"scattered", "cta", gather<kScattered, false>},
              {"bulk", "cta", gather<kBulk, false>}};
  for (const auto& way : ways) {
    auto kernel = way.kernel;
    must(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    must(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 128 * 1024));
    for (int size : {2, 4, 8, 16}) {
      for (int packets : {4, 16, 48}) {
        for (int clusters : {1, 8}) {
          cudaLaunchAttribute attribute;
          const cudaLaunchConfig_t config =
              launch_config(size * clusters, size, 2 * (size + 1) * packets * 16, &attribute);
          const double us = median_us(kSteps, [&] {
            must(cudaLaunchKernelEx(&config, kernel, size, packets, kSteps, wrong));
          });
          std::printf(
              "{\"fact\": \"gather\", \"way\": \"%s\", \"cluster\": %d, \"clusters\": %d, "
              "\"packets\": %d, \"bytes_in\": %d, \"acquire\": \"%s\", \"us\": %.3f, \"wrong\": "
              "%u}\n",
              way.name, size, clusters, packets, size * packets * 16, way.acquire, us,
              take_wrong(wrong));
        }
      }
    }
  }
}

void time_grid(unsigned* wrong) {
  for (int blocks : {16, 32, 64, 96, 128}) {
    for (int bytes : {4096, 12288, 24576}) {  // packets in all, of 12 bytes of data each
      int packets = std::max(1, bytes / 16 / blocks), count = kSteps;
      auto* buffer = device_memory<uint4>(2 * packets * blocks);
      unsigned first = 1;
      const double us = median_us(kSteps, [&] {
        void* args[] = {&buffer, &packets, &first, &count, &wrong};
        must(cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(&grid_gather<6>), blocks,
                                         kThreads, args, 0, 0));
        first += count;
      });
      std::printf(
          "{\"fact\": \"grid\", \"blocks\": %d, \"bytes\": %d, \"us\": %.3f, \"wrong\": %u}\n",
          blocks, packets * blocks * 16, us, take_wrong(wrong));
      must(cudaFree(buffer));
    }
  }
}

void time_gaps() {
  for (int blocks : {16, 64, 128}) {
    for (int weight_bytes : {0, 36 * 1024}) {
      for (bool programmatic : {false, true}) {
        std::printf(
            "{\"fact\": \"gaps\", \"blocks\": %d, \"prologue_bytes\": %d, \"edges\": \"%s\", "
            "\"us\": "
            "%.3f}\n",
            blocks, weight_bytes, programmatic ? "programmatic" : "plain",
            chain_us(programmatic, blocks, weight_bytes, 1000));
      }
    }
  }
}

void time_l2(int blocks, unsigned* sink) {
  for (int kb : {8, 36, 72}) {
    const int packets = kb * 64, rounds = 200;
    auto* const from = device_memory<uint4>(static_cast<size_t>(blocks) * packets);
    auto* const clocks = device_memory<long long>(blocks);
    for (int i = 0; i < 3; ++i) {
      read_l2<<<blocks, kThreads>>>(from, packets, rounds, sink, clocks);
      must(cudaGetLastError());
    }
    std::vector<long long> host(blocks);
    must(cudaMemcpy(host.data(), clocks, blocks * sizeof(long long), cudaMemcpyDeviceToHost));
    std::sort(host.begin(), host.end());
    const double bytes = 1024.0 * kb * rounds;
    std::printf(
        "{\"fact\": \"l2\", \"slice_kb\": %d, \"bytes_per_clock_and_sm\": %.1f, \"slowest\": "
        "%.1f}\n",
        kb, bytes / host[blocks / 2], bytes / host.back());
    must(cudaFree(from));
    must(cudaFree(clocks));
  }
}

}  // namespace

int main() {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // what a limit cuts off leaves its lines
  cudaDeviceProp properties;
  must(cudaGetDeviceProperties(&properties, 0));
  int khz = 0;
  must(cudaDeviceGetAttribute(&khz, cudaDevAttrClockRate, 0));
  std::printf("{\"device\": \"%s\", \"sms\": %d, \"clock_mhz\": %d, \"smem_optin\": %zu}\n",
              properties.name, properties.multiProcessorCount, khz / 1000,
              properties.sharedMemPerBlockOptin);
  auto* const wrong = device_memory<unsigned>(1);
  time_clusters();
  time_gaps();
  time_gather(wrong);
  time_grid(wrong);
  time_mma<1>(32);
  time_mma<4>(32);
  time_mma<4>(128);
  time_mma<4>(256);
  time_l2(properties.multiProcessorCount, wrong);
}
