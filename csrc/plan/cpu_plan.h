// make_plan: the schedule of a pass over a layer on the CPU. cpu_cost.cpp has its time model.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/status.h"
#include "plan/device_info.h"
#include "plan/plan.h"
#include "plan/problem.h"

namespace fusedrnn {

// How the threads of a persistent region share a step.
enum class Split : int8_t {
  kRows,   // each thread owns batch rows: no barrier
  kUnits,  // each thread owns hidden units with all their gates: one barrier a step
};

// The most rows of a step for which packed weights of a 16-bit type stay in 16 bits, with vectors
// of more than 16 bytes.
constexpr int kStoragePanelRows = 4;

// Calls of at most so many steps of at least so many rows may have bits that depend on the number
// of threads: there the runtime's products may be the fastest.
constexpr int64_t kMaxThreadDependentSteps = 4;
constexpr int64_t kMinThreadDependentRows = 8;

// How a persistent pass reads the weights; backward has them packed.
enum class Weights : int8_t {
  kPacked,   // copied once a call into panels that a step reads faster
  kInPlace,  // as they lie, weight_ih as well: few steps of few rows
};

struct CpuSizes {
  Schedule schedule;
  Split split;             // persistent only
  int num_threads;         // of a direction, at most CpuInfo::num_threads
  int directions_at_once;  // 1, or 2: both directions, num_threads each, no more than there are
  Weights weights;         // persistent only
};

struct Plan : Choice, CpuSizes {
  int64_t min_split_rows;  // kRows: steps of fewer are split by units; 0: none are
  bool multiplies_input;   // persistent: the sweep projects the input
  int64_t chunk_steps;     // time steps whose input projection is computed at once
};

const char* schedule_name(Schedule schedule);  // of those of the CPU
const char* split_name(Split split);
const char* weights_name(Weights weights);

// Chooses a schedule for a pass over all directions of a layer: of least modelled time, or the one
// that `forced` names, unless null or empty. Forcing an unknown schedule is an error.
Status make_plan(const Problem& problem, Pass pass, const CpuInfo& cpu, const char* forced,
                 Plan* plan);

// Writes the plan as text, a fact a line (text.h): the problem, for forward, the choice, its sizes
// and every rejection. Returns the length written, at most size - 1.
size_t print_plan(const Problem& problem, Pass pass, const CpuInfo& cpu, const Plan& plan,
                  char* text, size_t size);

// The units of a panel, which one thread computes: with Split::kUnits no more threads than panels
// have work.
int64_t units_of_panel(const Problem& problem, Pass pass, Isa isa);

// Time model (cpu_cost.cpp): seconds of the pass over all directions of the layer.
double modelled_seconds(const Problem& problem, Pass pass, const CpuInfo& cpu,
                        const CpuSizes& sizes);

}  // namespace fusedrnn
