// make_cuda_plan: the schedule of a pass over a layer on CUDA. cuda_cost.cpp has its time model.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/status.h"
#include "plan/device_info.h"
#include "plan/plan.h"
#include "plan/problem.h"

namespace fusedrnn {

// The pass a CUDA plan is for: forward and backward need different sizes.
enum class Pass : int8_t { kForward, kBackward };

// How per_step computes a step on CUDA.
enum class StepForm : int8_t {
  kProduct,  // the runtime's product, then one pointwise kernel
  kFused,    // one kernel that multiplies and ends in the cell
};

// Whether the steps of per_step/fused are recorded as a CUDA graph and launched at once.
enum class Recording : int8_t {
  kNever,         // a launch a step
  kWhenRepeated,  // from the second time on that the same kernels come with the same buffers
  kAlways,        // the first time already: for tests and measurements
};

// Kernels that a pass may have to be recorded.
constexpr int64_t kMaxRecordedKernels = 16384;

// The tile of a block of per_step's fused kernel.
constexpr int kFusedUnits = 32;  // hidden units, one a lane, with all their gates
constexpr int kFusedRows = 8;    // batch rows
constexpr int kFusedDepth = 32;  // of the product at once in shared memory
constexpr int kFusedThreads = 256;

// The same kernels on tensor cores: units of a block, by Pass, and the rows of a tile, of which a
// block has one or two.
constexpr int kTensorUnits[] = {8, 16};
constexpr int kTensorRows = 16;

// single_block: a thread owns one hidden unit with all its gates for so many rows at most, 4 of
// float and 2 of double, whose sums still fit in its registers.
constexpr int max_thread_rows(DType dtype) { return static_cast<int>(16 / accum_bytes(dtype)); }
constexpr int kSingleBlockMaxThreads = 512;

struct CudaSizes {
  Schedule schedule;  // kPerStep or kSingleBlock
  StepForm form;      // per_step only
  Recording recording;
  Candidate not_recorded;  // per_step that is not: a graph, as it was considered
  // single_block: a block has batch_tile rows of one direction. Its threads are row groups of
  // `unit_threads`, hidden_size rounded up to whole warps; each thread has thread_rows rows.
  // fused: the constants above. product: 0, the pointwise kernel chooses its own.
  int batch_tile;   // thread_rows * threads / unit_threads
  int thread_rows;  // 1, 2 or 4
  int unit_threads;
  int threads;
  int64_t smem_bytes;   // dynamic shared memory of a block of single_block
  int64_t chunk_steps;  // time steps whose input projection is computed at once
};
struct CudaPlan : Choice, CudaSizes {};

// Dynamic shared memory of a single_block kernel: weight_hh as S [G * H, H] in the order the
// kernel likes, then, from the next multiple of 16 bytes, two buffers of A [batch_tile, width]:
// what a step hands to the next one. width is H forward, G * H backward.
int64_t single_block_smem_bytes(const Problem& problem, Pass pass, int batch_tile);

// What the environment forces of a CUDA plan: null or empty chooses by modelled time.
struct CudaForced {
  const char* schedule;  // per_step, per_step/product, per_step/fused or single_block
  const char* graph;     // 0: steps are launched one by one; 1: per_step only if it is recorded
};

// Chooses a schedule for a pass over all directions of a layer. Forcing what is unknown, or what
// cannot run the layer, is an error with its reason.
Status make_cuda_plan(const Problem& problem, Pass pass, const CudaInfo& device,
                      const CudaForced& forced, CudaPlan* plan);

// As print_plan.
size_t print_cuda_plan(const Problem& problem, Pass pass, const CudaInfo& device,
                       const CudaPlan& plan, char* text, size_t size);

// Time model (cuda_cost.cpp): seconds of a pass over all directions with those sizes.
double modelled_cuda_seconds(const Problem& problem, Pass pass, const CudaInfo& device,
                             const CudaSizes& sizes);

}  // namespace fusedrnn
