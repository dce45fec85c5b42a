#include "plan/cpu_plan.h"

#include <limits>

#include "cells/registry.h"
#include "plan/arithmetic.h"
#include "plan/choose.h"
#include "plan/text.h"

namespace fusedrnn {

namespace {

// Splitting rows pays when a thread has enough of them to reuse each weight it loads. Four, in
// place of eight, took 3 to 12 % off steps of 8 to 15 rows of an LSTM with 128 units on two
// threads.
constexpr int64_t kMinRowsOfThread = 4;

// Rows a step for which the sweep multiplies the input as well. Measured on two cores with 2 MiB
// of L2 each, input as wide as hidden: 16 to 256 rows gained 2 to 19 % with weights of up to 2 MiB
// together, 32 rows lost 1 to 6 % from 6 MiB on, 64 rows lost 1 to gained 3 % with 10 MiB and more.
constexpr int64_t kMinRowsOfInput = 16;
constexpr int64_t kMinRowsOfLargeInput = 64;

// Rows of an input projection: enough for a large product to reach its rate, and no more than
// stay in cache until the sweep reads them, or backward the gradients of their gates again.
constexpr int64_t kMinChunkRows = 768;
constexpr int64_t kChunkShareOfL2 = 4;

// What both directions at the same time must save: threads that have gone to sleep take tens of
// microseconds to wake, and more where other processes have their cores.
constexpr double kMinSavedSeconds = 20e-6;

struct CpuPlanner {
  using Sizes = CpuSizes;
  static constexpr const char* kNames[] = {"per_step", "persistent"};  // by Schedule
  static constexpr const char* kForcible = "per_step, persistent";

  // The best split and number of threads: all, a half, a quarter, and so on, and those of a socket.
  // Rows need no barrier; units do, which needs threads that run at the same time, and no more of
  // them than there are panels. A product a step is split as its library likes. Two directions on
  // a thread each need no barrier either.
  Reason consider(int idx, CpuSizes* sizes, double* seconds) const {
    const auto schedule = static_cast<Schedule>(idx);
    const Weights weights = choose_weights(schedule);
    *seconds = std::numeric_limits<double>::infinity();
    const auto try_threads = [&](Split split, int num_threads, int directions_at_once) {
      const CpuSizes tried{schedule, split, num_threads, directions_at_once, weights};
      const double its_seconds = modelled_seconds(problem, pass, cpu, tried);
      if (its_seconds + (directions_at_once > 1 ? kMinSavedSeconds : 0) < *seconds) {
        *sizes = tried;
        *seconds = its_seconds;
      }
    };
    try_threads(Split::kUnits, 1, 1);
    const bool sweeps = schedule == Schedule::kPersistent;
    const int64_t panels = ceil_div(problem.hidden_size, units_of_panel(problem, pass, cpu.isa));
    const auto try_splits = [&](int threads) {
      if (!sweeps || (cpu.concurrent_threads && threads <= panels)) {
        try_threads(Split::kUnits, threads, 1);
      }
      if (sweeps && problem.batch_size >= kMinRowsOfThread * threads) {
        try_threads(Split::kRows, threads, 1);
      }
    };
    for (int threads = cpu.num_threads; threads > 1; threads /= 2) try_splits(threads);
    if (cpu.socket_cores > 1 && cpu.socket_cores < cpu.num_threads) try_splits(cpu.socket_cores);
    if (problem.directions == 2 && cpu.num_threads > 1) try_threads(Split::kUnits, 1, 2);
    Reason reason;
    const bool may_depend =
        cpu.isa == Isa::kGeneric || (problem.seq_len <= kMaxThreadDependentSteps &&
                                     problem.batch_size >= kMinThreadDependentRows);
    if (!sweeps && !may_depend) reason.drawback = "its bits depend on the number of threads";
    return reason;
  }

  // As for one thread, however many there are: the sums of both are added up in another order, and
  // the number of threads must change no bit.
  Weights choose_weights(Schedule schedule) const {
    if (schedule != Schedule::kPersistent || pass == Pass::kBackward) return Weights::kPacked;
    CpuInfo one_thread = cpu;
    one_thread.num_threads = 1;
    const auto seconds = [&](Weights weights) {
      return modelled_seconds(problem, pass, one_thread, {schedule, Split::kUnits, 1, 1, weights});
    };
    return seconds(Weights::kInPlace) < seconds(Weights::kPacked) ? Weights::kInPlace
                                                                  : Weights::kPacked;
  }

  const Problem& problem;
  const Pass pass;
  const CpuInfo& cpu;
};

// Time steps a chunk, chunks of one size.
int64_t choose_chunk_steps(const Problem& problem, const CpuInfo& cpu) {
  if (problem.total_rows <= 0) return problem.seq_len;
  const int64_t row_bytes =
      cell_info(problem.cell).gates * problem.hidden_size * accum_bytes(problem.dtype);
  int64_t rows = cpu.l2_bytes / kChunkShareOfL2 / row_bytes;
  if (rows < kMinChunkRows) rows = kMinChunkRows;
  const int64_t most = cpu.l3_bytes / 2 / row_bytes;
  if (rows > most) rows = most > kMinChunkRows / 4 ? most : kMinChunkRows / 4;
  if (problem.chunk_bytes > 0) rows = problem.chunk_bytes / row_bytes;
  const int64_t rows_of_step = ceil_div(problem.total_rows, problem.seq_len);
  const int64_t steps = rows > rows_of_step ? rows / rows_of_step : 1;
  return ceil_div(problem.seq_len, ceil_div(problem.seq_len, steps));
}

// Multiplied in the sweep, the input side is still in registers when the recurrent side is added
// to it. The weights of both must pass through a core in every step, though, which enough rows
// have to outweigh: more of them where the second cache does not hold much of the weights. In
// training, cells with the sides apart save something in the input side's place anyway.
bool choose_multiplies_input(const Problem& problem, const CpuInfo& cpu, const Plan& plan) {
  if (plan.weights == Weights::kInPlace) return true;
  if (plan.schedule != Schedule::kPersistent || cpu.isa == Isa::kGeneric) return false;
  const CellInfo& cell = cell_info(problem.cell);
  if (cell.split && problem.training) return false;
  const int64_t bytes = cell.gates * problem.hidden_size *
                        (problem.input_size + problem.output_size()) * accum_bytes(problem.dtype);
  const int64_t rows = bytes <= 2 * cpu.l2_bytes ? kMinRowsOfInput : kMinRowsOfLargeInput;
  return problem.total_rows >= rows * problem.seq_len;
}

}  // namespace

const char* schedule_name(Schedule schedule) {
  return CpuPlanner::kNames[static_cast<int>(schedule)];
}

const char* split_name(Split split) { return split == Split::kRows ? "rows" : "units"; }

const char* weights_name(Weights weights) {
  return weights == Weights::kPacked ? "packed once a call" : "read in place";
}

Status make_plan(const Problem& problem, Pass pass, const CpuInfo& cpu, const char* forced,
                 Plan* plan) {
  const Status status = choose(CpuPlanner{problem, pass, cpu}, forced, plan);
  if (!status.ok) return status;
  plan->min_split_rows = cpu.concurrent_threads ? kMinRowsOfThread * plan->num_threads : 0;
  plan->chunk_steps = choose_chunk_steps(problem, cpu);
  plan->multiplies_input = pass == Pass::kForward && choose_multiplies_input(problem, cpu, *plan);
  return status;
}

size_t print_plan(const Problem& problem, Pass pass, const CpuInfo& cpu, const Plan& plan,
                  char* text, size_t size) {
  Writer writer(text, size);
  const bool forward = pass == Pass::kForward;
  if (forward) write_problem(problem, &writer);
  writer.write("%s: %s, modelled ", forward ? "forward" : "backward", plan.name);
  writer.write_time(plan.modelled_seconds);
  writer.write(", %d thread%s", plan.num_threads, plan.num_threads == 1 ? "" : "s");
  if (plan.schedule == Schedule::kPersistent && plan.num_threads > 1) {
    writer.write(" split by %s, %s", split_name(plan.split),
                 plan.split == Split::kRows ? "no barrier" : "a barrier a step");
  }
  writer.write("\n");
  if (forward && plan.schedule == Schedule::kPersistent) {
    writer.write("weights: %s\n", weights_name(plan.weights));
  }
  if (forward) write_format(problem.format, &writer);
  if (problem.directions == 2) {
    writer.write("directions: %s\n", plan.directions_at_once == 2
                                         ? "both at the same time, on threads of their own"
                                         : "one after the other");
  }
  if (plan.multiplies_input) {
    writer.write("input projection: in the sweep\n");
  } else {
    writer.write("%s: %lld steps at once\n", forward ? "input projection" : "weight gradients",
                 static_cast<long long>(plan.chunk_steps));
  }
  if (plan.schedule == Schedule::kPersistent && cpu.num_threads > 1 && !cpu.concurrent_threads) {
    writer.write("no split by units: its barrier needs threads that run at the same time\n");
  }
  write_rejections(plan, &writer);
  return writer.length();
}

}  // namespace fusedrnn
