#include "plan/cuda_plan.h"

#include <cstring>
#include <limits>

#include "cells/registry.h"
#include "plan/arithmetic.h"
#include "plan/choose.h"
#include "plan/text.h"

namespace fusedrnn {

namespace {

// Bytes that the input projections of a chunk may take.
constexpr int64_t kChunkBytes = int64_t{256} << 20;

constexpr int kWarp = 32;

// By half the rows of a thread.
constexpr const char* kSingleBlockInstances[] = {"single_block, 1 row a thread",
                                                 "single_block, 2 rows a thread",
                                                 "single_block, 4 rows a thread"};

int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
int64_t kib(int64_t bytes) { return ceil_div(bytes, 1024); }

// Time steps a chunk, chunks of one size.
int64_t choose_chunk_steps(const Problem& problem) {
  if (problem.total_rows <= 0) return problem.seq_len;
  const int64_t row_bytes = problem.directions * cell_info(problem.cell).gates *
                            problem.hidden_size * accum_bytes(problem.dtype);
  const int64_t step_bytes = row_bytes * ceil_div(problem.total_rows, problem.seq_len);
  const int64_t bytes = problem.chunk_bytes > 0 ? problem.chunk_bytes : kChunkBytes;
  const int64_t steps = step_bytes < bytes ? bytes / step_bytes : 1;
  return ceil_div(problem.seq_len, ceil_div(problem.seq_len, steps));
}

struct CudaPlanner {
  using Sizes = CudaSizes;
  enum : int { kProduct, kFused, kSingleBlock };
  static constexpr const char* kNames[] = {"per_step/product", "per_step/fused", "single_block"};
  static constexpr const char* kForcible =
      "per_step, per_step/product, per_step/fused, single_block on CUDA";

  Reason consider(int idx, CudaSizes* sizes, double* seconds) const {
    sizes->schedule = idx == kSingleBlock ? Schedule::kSingleBlock : Schedule::kPerStep;
    sizes->form = idx == kFused ? StepForm::kFused : StepForm::kProduct;
    sizes->chunk_steps = choose_chunk_steps(problem);
    if (idx != kProduct && problem.proj_size > 0) {
      return {"projection: only per_step/product has it"};
    }
    if (idx == kSingleBlock) return consider_single_block(sizes, seconds);
    sizes->instance = "pointwise";
    if (idx == kProduct) return consider_per_step(sizes, seconds);
    return consider_fused(sizes, seconds);
  }

  // The kernel of least modelled time among those that are compiled: 16-bit types have only those
  // on tensor cores, and float32 has them where its products may round to TF32.
  Reason consider_fused(CudaSizes* sizes, double* seconds) const {
    const bool rounds = problem.dtype == DType::kFloat32 && device.allow_tf32;
    const bool may = dtype_bytes(problem.dtype) == 2 || (rounds && device.sm_arch >= 80);
    sizes->threads = kFusedThreads;
    sizes->programmatic = device.programmatic;
    CudaSizes best = *sizes;
    best.batch_tile = kFusedRows;
    best.instance = "fused";
    Reason reason;
    bool has_any = false;
    for (int tiles = 1; may && tiles <= 2; ++tiles) {
      CudaSizes tried = *sizes;
      tried.batch_tile = tried.row_tile = tiles * kTensorRows;
      if (!has_tensor_kernel(problem, pass, tried.row_tile)) continue;
      tried.on_tensor_cores = true;
      tried.instance =
          tiles == 1 ? "fused on tensor cores, 16 rows" : "fused on tensor cores, 32 rows";
      double its_seconds = 0;
      reason = consider_per_step(&tried, &its_seconds);
      if (reason.format != nullptr) return reason;
      if (has_any && its_seconds >= *seconds) continue;
      has_any = true;
      best = tried;
      *seconds = its_seconds;
    }
    if (!has_any) reason = consider_per_step(&best, seconds);
    *sizes = best;
    return reason;
  }

  // The tile of least modelled time among those that fit.
  Reason consider_single_block(CudaSizes* sizes, double* seconds) const {
    if (problem.packed) return {"packed input: only per_step takes steps that differ in rows"};
    const int64_t need = single_block_smem_bytes(problem, pass, 1);
    if (need > device.smem_bytes_per_block || problem.hidden_size > kSingleBlockMaxThreads) {
      return {
          "weight_hh of one direction and its buffers need %lld KiB of shared memory, the "
          "device has %lld a block",
          kib(need), device.smem_bytes_per_block / 1024};
    }
    CudaSizes tried = *sizes;
    tried.unit_threads = static_cast<int>(round_up(problem.hidden_size, kWarp));
    *seconds = std::numeric_limits<double>::infinity();
    for (int thread_rows = 1; thread_rows <= max_thread_rows(problem.dtype); thread_rows *= 2) {
      for (int row_groups = 1;; row_groups *= 2) {
        tried.threads = tried.unit_threads * row_groups;
        tried.thread_rows = thread_rows;
        tried.batch_tile = thread_rows * row_groups;
        tried.instance = kSingleBlockInstances[thread_rows / 2];
        tried.smem_bytes = single_block_smem_bytes(problem, pass, tried.batch_tile);
        const bool wasteful = tried.batch_tile > 1 && tried.batch_tile >= 2 * problem.batch_size;
        if (tried.threads > kSingleBlockMaxThreads || wasteful ||
            tried.smem_bytes > device.smem_bytes_per_block) {
          break;
        }
        const double its_seconds = modelled_cuda_seconds(problem, pass, device, tried);
        if (its_seconds < *seconds) {
          *sizes = tried;
          *seconds = its_seconds;
        }
      }
    }
    return {};
  }

  // Recorded as a graph where that is possible and faster, or forced.
  Reason consider_per_step(CudaSizes* sizes, double* seconds) const {
    *seconds = modelled_cuda_seconds(problem, pass, device, *sizes);
    const Reason reason = why_not_recorded(sizes->form);
    if (reason.wish != nullptr) return reason;
    sizes->not_recorded = {"a graph", 0, reason};
    if (reason.format != nullptr) return {};
    sizes->recording = always_records ? Recording::kAlways : Recording::kWhenRepeated;
    const double recorded = modelled_cuda_seconds(problem, pass, device, *sizes);
    if (always_records || recorded < *seconds) {
      *seconds = recorded;
      sizes->not_recorded = {};
    } else {
      sizes->recording = Recording::kNever;
      sizes->not_recorded.modelled_seconds = recorded;
    }
    return {};
  }

  Reason why_not_recorded(StepForm form) const {
    const char* wish = always_records ? "FUSEDRNN_CUDA_GRAPH=1" : nullptr;
    const int64_t kernels = problem.seq_len + (pass == Pass::kBackward ? 1 : 0);
    if (form != StepForm::kFused) {
      return {"torch's products may move their workspace between two launches", 0, 0, wish};
    }
    if (kernels > kMaxRecordedKernels) {
      return {"%lld kernels, a graph has %lld at most", kernels, kMaxRecordedKernels, wish};
    }
    if (never_records) return {"FUSEDRNN_CUDA_GRAPH=0"};
    if (problem.packed && !always_records) {
      return {"packed input: steps seldom come again with the same rows"};
    }
    return {};
  }

  const Problem& problem;
  const Pass pass;
  const CudaInfo& device;
  const bool always_records, never_records;  // as forced
};

}  // namespace

int64_t single_block_smem_bytes(const Problem& problem, Pass pass, int batch_tile) {
  const int64_t gate_size = cell_info(problem.cell).gates * problem.hidden_size;
  const int64_t width = pass == Pass::kForward ? problem.hidden_size : gate_size;
  return round_up(gate_size * problem.hidden_size * dtype_bytes(problem.dtype), 16) +
         round_up(2 * batch_tile * width * accum_bytes(problem.dtype), 16);
}

Status make_cuda_plan(const Problem& problem, Pass pass, const CudaInfo& device,
                      const CudaForced& forced, CudaPlan* plan) {
  const char* graph = forced.graph != nullptr ? forced.graph : "";
  const bool always = std::strcmp(graph, "1") == 0, never = std::strcmp(graph, "0") == 0;
  if (graph[0] != '\0' && !always && !never) {
    return Status::error("FUSEDRNN_CUDA_GRAPH: expected 0 or 1, got '%.60s'", graph);
  }
  return choose(CudaPlanner{problem, pass, device, always, never}, forced.schedule, plan);
}

size_t print_cuda_plan(const Problem& problem, Pass pass, const CudaInfo& device,
                       const CudaPlan& plan, char* text, size_t size) {
  Writer writer(text, size);
  const bool forward = pass == Pass::kForward;
  if (forward) write_problem(problem, &writer);
  writer.write("%s on %s: %s, modelled ", forward ? "forward" : "backward", device.name, plan.name);
  writer.write_time(plan.modelled_seconds);
  if (plan.schedule == Schedule::kSingleBlock) {
    const int64_t blocks = problem.directions * ceil_div(problem.batch_size, plan.batch_tile);
    writer.write(", %lld block%s of %d row%s, %d threads, %lld KiB of shared memory",
                 static_cast<long long>(blocks), blocks == 1 ? "" : "s", plan.batch_tile,
                 plan.batch_tile == 1 ? "" : "s", plan.threads,
                 static_cast<long long>(kib(plan.smem_bytes)));
  } else if (plan.form == StepForm::kFused) {
    const int units = plan.row_tile > 0 ? kTensorUnits[static_cast<int>(pass)] : kFusedUnits;
    writer.write(", blocks of %d units and %d rows%s", units, plan.batch_tile,
                 plan.row_tile > 0 ? " on tensor cores" : "");
  }
  if (plan.recording != Recording::kNever) writer.write(", recorded as a graph");
  writer.write("\n%s: %lld steps at once\n", forward ? "input projection" : "weight gradients",
               static_cast<long long>(plan.chunk_steps));
  if (plan.not_recorded.name != nullptr) {
    write_rejection(plan.not_recorded, plan.modelled_seconds, nullptr, &writer);
  }
  write_rejections(plan, &writer);
  return writer.length();
}

}  // namespace fusedrnn
