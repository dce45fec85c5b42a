#include "plan/cuda_plan.h"

#include <cstring>

#include "cells/registry.h"
#include "plan/arithmetic.h"
#include "plan/text.h"

namespace fusedrnn {

namespace {

// The candidates, by the names that force them. per_step alone stands for the better of its two.
enum : int { kProductCandidate, kFusedCandidate, kSingleBlockCandidate };
constexpr const char* kCandidateNames[kCudaCandidateCount] = {"per_step/product", "per_step/fused",
                                                              "single_block"};
constexpr const char* kPerStep = "per_step";

// Bytes that the input projections of a chunk may take.
constexpr int64_t kChunkBytes = int64_t{256} << 20;

constexpr int kWarp = 32;
constexpr const char* kGraphVariable = "FUSEDRNN_CUDA_GRAPH";

int64_t align(int64_t bytes) { return ceil_div(bytes, 16) * 16; }
int64_t kib(int64_t bytes) { return ceil_div(bytes, 1024); }

// What is forced of the recording.
enum class GraphWish : int8_t { kNone, kNever, kAlways };

struct CudaCandidate {
  CudaPlan sizes;
  bool possible;
  bool refused_for_graph;
  char reason[160];  // why not
};

template <class... Args>
void refuse(CudaCandidate* candidate, const char* format, Args... args) {
  candidate->possible = false;
  Writer writer(candidate->reason, sizeof(candidate->reason));
  writer.write(format, args...);
}

// Time steps a chunk, chunks of one size.
int64_t choose_chunk_steps(const Problem& problem) {
  if (problem.total_rows <= 0) return problem.seq_len;
  const int64_t row_bytes = problem.directions * cell_info(problem.cell).gates *
                            problem.hidden_size * accum_bytes(problem.dtype);
  const int64_t step_bytes = row_bytes * ceil_div(problem.total_rows, problem.seq_len);
  const int64_t steps = step_bytes < kChunkBytes ? kChunkBytes / step_bytes : 1;
  return ceil_div(problem.seq_len, ceil_div(problem.seq_len, steps));
}

void set_single_block(const Problem& problem, Pass pass, int thread_rows, int row_groups,
                      CudaPlan* sizes) {
  sizes->unit_threads = static_cast<int>(ceil_div(problem.hidden_size, kWarp)) * kWarp;
  sizes->threads = sizes->unit_threads * row_groups;
  sizes->thread_rows = thread_rows;
  sizes->batch_tile = thread_rows * row_groups;
  sizes->smem_bytes = single_block_smem_bytes(problem, pass, sizes->batch_tile);
}

// The tile of least modelled time among those that fit.
void choose_single_block(const Problem& problem, Pass pass, const CudaInfo& device,
                         CudaCandidate* candidate) {
  const int64_t need = single_block_smem_bytes(problem, pass, 1);
  if (need > device.smem_bytes_per_block || problem.hidden_size > kSingleBlockMaxThreads) {
    refuse(candidate,
           "weight_hh of one direction and its buffers need %lld KiB of shared memory, the device "
           "has %lld a block",
           static_cast<long long>(kib(need)),
           static_cast<long long>(device.smem_bytes_per_block / 1024));
    return;
  }
  candidate->possible = false;
  for (int thread_rows = 1; thread_rows <= max_thread_rows(problem.dtype); thread_rows *= 2) {
    for (int row_groups = 1;; row_groups *= 2) {
      CudaPlan sizes = candidate->sizes;
      set_single_block(problem, pass, thread_rows, row_groups, &sizes);
      const bool wasteful = sizes.batch_tile > 1 && sizes.batch_tile >= 2 * problem.batch_size;
      if (sizes.threads > kSingleBlockMaxThreads || wasteful ||
          sizes.smem_bytes > device.smem_bytes_per_block) {
        break;
      }
      sizes.modelled_seconds = modelled_cuda_seconds(problem, pass, device, sizes);
      if (candidate->possible && sizes.modelled_seconds >= candidate->sizes.modelled_seconds) {
        continue;
      }
      candidate->sizes = sizes;
      candidate->possible = true;
    }
  }
}

template <class... Args>
void do_not_record(CudaPlan* sizes, const char* format, Args... args) {
  sizes->recording = Recording::kNever;
  Writer writer(sizes->not_recorded, sizeof(sizes->not_recorded));
  writer.write(format, args...);
}

// The modelled time of per_step, recorded or not.
void choose_recording(const Problem& problem, Pass pass, const CudaInfo& device, GraphWish wish,
                      CudaCandidate* candidate) {
  CudaPlan& sizes = candidate->sizes;
  sizes.recording = Recording::kNever;
  const auto model = [&] { return modelled_cuda_seconds(problem, pass, device, sizes); };
  const double each = sizes.modelled_seconds = model();
  const int64_t kernels = problem.seq_len + (pass == Pass::kBackward ? 1 : 0);
  const bool is_fused = sizes.form == StepForm::kFused;
  if (!is_fused || kernels > kMaxRecordedKernels) {
    if (is_fused) {
      do_not_record(&sizes, "%lld kernels, a graph has %lld at most",
                    static_cast<long long>(kernels), static_cast<long long>(kMaxRecordedKernels));
    } else {
      do_not_record(&sizes, "torch's products may move their workspace between two launches");
    }
    if (wish == GraphWish::kAlways) {
      refuse(candidate, "%s=1: %s", kGraphVariable, sizes.not_recorded);
      candidate->refused_for_graph = true;
    }
    return;
  }
  if (wish == GraphWish::kNever) {
    do_not_record(&sizes, "%s=0", kGraphVariable);
    return;
  }
  if (wish == GraphWish::kNone && problem.packed) {
    do_not_record(&sizes, "packed input: steps seldom come again with the same rows");
    return;
  }
  sizes.recording = wish == GraphWish::kAlways ? Recording::kAlways : Recording::kWhenRepeated;
  sizes.modelled_seconds = model();
  if (wish == GraphWish::kAlways || sizes.modelled_seconds < each) return;
  const Duration recorded(sizes.modelled_seconds), plain(each);
  do_not_record(&sizes, "modelled %lld.%d %s against %lld.%d %s", recorded.whole, recorded.tenth,
                recorded.unit, plain.whole, plain.tenth, plain.unit);
  sizes.modelled_seconds = each;
}

CudaCandidate make_candidate(int idx, const Problem& problem, Pass pass, const CudaInfo& device,
                             GraphWish graph) {
  CudaCandidate candidate{};
  CudaPlan& sizes = candidate.sizes;
  sizes.schedule = idx == kSingleBlockCandidate ? Schedule::kSingleBlock : Schedule::kPerStep;
  sizes.form = idx == kFusedCandidate ? StepForm::kFused : StepForm::kProduct;
  sizes.chunk_steps = choose_chunk_steps(problem);
  candidate.possible = true;
  if (idx != kProductCandidate && problem.proj_size > 0) {
    refuse(&candidate, "projection: only %s has it", kCandidateNames[kProductCandidate]);
    return candidate;
  }
  if (idx == kSingleBlockCandidate) {
    if (problem.packed) {
      refuse(&candidate, "packed input: only per_step takes steps that differ in rows");
      return candidate;
    }
    choose_single_block(problem, pass, device, &candidate);
    return candidate;
  }
  if (idx == kFusedCandidate) {
    sizes.batch_tile = kFusedRows;
    sizes.threads = kFusedThreads;
  }
  choose_recording(problem, pass, device, graph, &candidate);
  return candidate;
}

bool is_empty(const char* text) { return text == nullptr || text[0] == '\0'; }

bool names(const char* forced, int idx) {
  return std::strcmp(forced, kCandidateNames[idx]) == 0 ||
         (std::strcmp(forced, kPerStep) == 0 && idx != kSingleBlockCandidate);
}

}  // namespace

const char* cuda_plan_name(const CudaPlan& plan) {
  if (plan.schedule == Schedule::kSingleBlock) return kCandidateNames[kSingleBlockCandidate];
  return kCandidateNames[plan.form == StepForm::kFused ? kFusedCandidate : kProductCandidate];
}

int64_t single_block_smem_bytes(const Problem& problem, Pass pass, int batch_tile) {
  const int64_t gate_size = cell_info(problem.cell).gates * problem.hidden_size;
  const int64_t width = pass == Pass::kForward ? problem.hidden_size : gate_size;
  return align(gate_size * problem.hidden_size * dtype_bytes(problem.dtype)) +
         align(2 * batch_tile * width * accum_bytes(problem.dtype));
}

Status make_cuda_plan(const Problem& problem, Pass pass, const CudaInfo& device,
                      const CudaForced& wishes, CudaPlan* plan) {
  const char* forced = wishes.schedule;
  const bool is_forced = !is_empty(forced);
  GraphWish graph = GraphWish::kNone;
  if (!is_empty(wishes.graph)) {
    const bool is_always = std::strcmp(wishes.graph, "1") == 0;
    if (!is_always && std::strcmp(wishes.graph, "0") != 0) {
      return Status::error("%s: expected 0 or 1, got '%.60s'", kGraphVariable, wishes.graph);
    }
    graph = is_always ? GraphWish::kAlways : GraphWish::kNever;
  }
  CudaCandidate candidates[kCudaCandidateCount];
  int chosen = -1, named = -1;
  const char* graph_reason = nullptr;
  for (int i = 0; i < kCudaCandidateCount; ++i) {
    candidates[i] = make_candidate(i, problem, pass, device, graph);
    if (is_forced && !names(forced, i)) continue;
    named = i;
    if (candidates[i].refused_for_graph) graph_reason = candidates[i].reason;
    if (!candidates[i].possible) continue;
    if (chosen < 0 ||
        candidates[i].sizes.modelled_seconds < candidates[chosen].sizes.modelled_seconds) {
      chosen = i;
    }
  }
  if (named < 0) {
    return Status::error(
        "schedule: expected one of per_step, per_step/product, per_step/fused, single_block on "
        "CUDA, got '%.60s'",
        forced);
  }
  if (chosen < 0 && graph_reason != nullptr) return Status::error("per_step: %s", graph_reason);
  if (chosen < 0) return Status::error("schedule %s: %s", forced, candidates[named].reason);

  *plan = candidates[chosen].sizes;
  plan->rejection_count = 0;
  for (int i = 0; i < kCudaCandidateCount; ++i) {
    if (i == chosen) continue;
    CudaRejection& rejection = plan->rejections[plan->rejection_count++];
    rejection.candidate = kCandidateNames[i];
    Writer writer(rejection.reason, sizeof(rejection.reason));
    if (!candidates[i].possible) {
      writer.write("%s", candidates[i].reason);
    } else {
      write_slower(candidates[i].sizes.modelled_seconds, plan->modelled_seconds,
                   is_forced ? forced : nullptr, &writer);
    }
  }
  return {};
}

size_t print_cuda_plan(const Problem& problem, Pass pass, const CudaInfo& device,
                       const CudaPlan& plan, char* text, size_t size) {
  Writer writer(text, size);
  const bool forward = pass == Pass::kForward;
  if (forward) {
    write_problem(problem, &writer);
    writer.write("%s, %s\n", problem.directions == 2 ? ", 2 directions" : "",
                 problem.training ? "training" : "inference");
  }
  const Duration modelled(plan.modelled_seconds);
  writer.write("%s on %s: %s, modelled %lld.%d %s", forward ? "forward" : "backward", device.name,
               cuda_plan_name(plan), modelled.whole, modelled.tenth, modelled.unit);
  if (plan.schedule == Schedule::kSingleBlock) {
    const int64_t blocks = problem.directions * ceil_div(problem.batch_size, plan.batch_tile);
    writer.write(", %lld block%s of %d row%s, %d threads, %lld KiB of shared memory",
                 static_cast<long long>(blocks), blocks == 1 ? "" : "s", plan.batch_tile,
                 plan.batch_tile == 1 ? "" : "s", plan.threads,
                 static_cast<long long>(kib(plan.smem_bytes)));
  } else if (plan.form == StepForm::kFused) {
    writer.write(", blocks of %d units and %d rows", kFusedUnits, kFusedRows);
  }
  if (plan.recording != Recording::kNever) writer.write(", recorded as a graph");
  writer.write("\n%s: %lld steps at once\n", forward ? "input projection" : "weight gradients",
               static_cast<long long>(plan.chunk_steps));
  if (plan.schedule == Schedule::kPerStep && plan.recording == Recording::kNever) {
    writer.write("not a graph: %s\n", plan.not_recorded);
  }
  for (int i = 0; i < plan.rejection_count; ++i) {
    writer.write("not %s: %s\n", plan.rejections[i].candidate, plan.rejections[i].reason);
  }
  return writer.length();
}

}  // namespace fusedrnn
