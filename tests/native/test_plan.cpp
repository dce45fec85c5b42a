// plan/: which schedule is chosen for machines that are not at hand, what is said about the
// others, what can be forced, and what a plan looks like as text.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "check.h"
#include "plan/plan.h"

namespace fusedrnn {
namespace {

constexpr CpuInfo kOneThread{Isa::kAvx2, 1, true, 32 << 10, 1 << 20, 32 << 20};
constexpr CpuInfo kTwoCores{Isa::kAvx2, 2, true, 32 << 10, 1 << 20, 32 << 20};
constexpr CpuInfo kManyCores{Isa::kAvx512, 64, true, 48 << 10, 2 << 20, 96 << 20};
constexpr CpuInfo kPlainPool{Isa::kAvx2, 8, false, 32 << 10, 512 << 10, 16 << 20};
constexpr CpuInfo kMachines[] = {kOneThread, kTwoCores, kManyCores, kPlainPool};
constexpr CpuInfo kConcurrentMachines[] = {kOneThread, kTwoCores, kManyCores};
constexpr CellKind kKinds[] = {CellKind::kRnnTanh, CellKind::kRnnRelu, CellKind::kLstm,
                               CellKind::kGru};

Problem make_problem(CellKind cell, int64_t seq_len, int64_t batch_size, int64_t hidden_size) {
  return {cell,        DType::kFloat32, seq_len, batch_size, seq_len * batch_size,
          hidden_size, hidden_size,     0,       1,          false};
}

Plan plan_of(const Problem& problem, const CpuInfo& cpu, const char* forced = nullptr) {
  Plan plan;
  const Status status = make_plan(problem, cpu, forced, &plan);
  CHECK_THAT(status.ok, "%s", status.message);
  return plan;
}

std::string text_of(const Problem& problem, const CpuInfo& cpu, const Plan& plan) {
  std::string text(2048, '\0');
  text.resize(print_plan(problem, cpu, plan, &text[0], text.size()));
  return text;
}

// Calls body(problem, cpu) for many shapes on every machine.
template <class Body>
void for_each_case(const Body& body) {
  for (const CpuInfo& cpu : kMachines) {
    for (CellKind cell : kKinds) {
      for (int64_t seq_len : {1, 2, 7, 100, 5000}) {
        for (int64_t batch_size : {0, 1, 3, 16, 128, 4096}) {
          for (int64_t hidden_size : {1, 65, 128, 512, 2048}) {
            body(make_problem(cell, seq_len, batch_size, hidden_size), cpu);
          }
        }
      }
    }
  }
}

TEST(every_plan_is_one_that_can_run) {
  for_each_case([](const Problem& problem, const CpuInfo& cpu) {
    for (const char* forced : {"", "per_step", "persistent"}) {
      const Plan plan = plan_of(problem, cpu, forced);
      CHECK(plan.num_threads >= 1 && plan.num_threads <= cpu.num_threads);
      CHECK(plan.chunk_steps >= 1 && plan.chunk_steps <= problem.seq_len);
      CHECK(std::isfinite(plan.modelled_seconds) && plan.modelled_seconds > 0);
      CHECK(plan.rejection_count == kCpuScheduleCount - 1);
      CHECK(plan.rejections[0].schedule != plan.schedule);
      CHECK(std::strlen(plan.rejections[0].reason) > 0);
      if (plan.schedule == Schedule::kPersistent && plan.num_threads > 1) {
        CHECK(plan.split == Split::kRows || cpu.concurrent_threads);
        CHECK(plan.split == Split::kUnits || problem.batch_size >= 8 * plan.num_threads);
      }
    }
  });
}

TEST(the_choice_is_the_schedule_of_less_modelled_time) {
  for_each_case([](const Problem& problem, const CpuInfo& cpu) {
    const double per_step = plan_of(problem, cpu, "per_step").modelled_seconds;
    const double persistent = plan_of(problem, cpu, "persistent").modelled_seconds;
    const Plan plan = plan_of(problem, cpu);
    CHECK(plan.modelled_seconds == std::fmin(per_step, persistent));
    CHECK(plan.modelled_seconds ==
          modelled_seconds(problem, cpu, plan.schedule, plan.split, plan.num_threads));
  });
}

TEST(a_single_step_never_packs_weights) {
  for (const CpuInfo& cpu : kMachines) {
    for (CellKind cell : kKinds) {
      for (int64_t batch_size : {1, 2, 8}) {
        for (int64_t hidden_size : {64, 512, 1024}) {
          const Problem problem = make_problem(cell, 1, batch_size, hidden_size);
          const Plan plan = plan_of(problem, cpu);
          CHECK_THAT(plan.schedule == Schedule::kPerStep, "%s",
                     text_of(problem, cpu, plan).c_str());
        }
      }
    }
  }
}

TEST(a_long_sequence_packs_them_once) {
  for (const CpuInfo& cpu : kConcurrentMachines) {
    for (CellKind cell : kKinds) {
      for (int64_t batch_size : {1, 16, 64, 128}) {
        for (int64_t hidden_size : {128, 512, 1024}) {
          const Problem problem = make_problem(cell, 1000, batch_size, hidden_size);
          const Plan plan = plan_of(problem, cpu);
          CHECK_THAT(plan.schedule == Schedule::kPersistent, "%s",
                     text_of(problem, cpu, plan).c_str());
        }
      }
    }
  }
}

// Once packing pays, it pays for every longer sequence.
TEST(longer_sequences_change_the_choice_once) {
  for (const CpuInfo& cpu : kConcurrentMachines) {
    for (int64_t batch_size : {1, 5, 40}) {
      bool persistent = false;
      for (int64_t seq_len = 1; seq_len < 2000; seq_len += 1 + seq_len / 8) {
        const Plan plan = plan_of(make_problem(CellKind::kLstm, seq_len, batch_size, 256), cpu);
        const bool now = plan.schedule == Schedule::kPersistent;
        CHECK_THAT(now || !persistent, "seq_len %lld", static_cast<long long>(seq_len));
        persistent = now;
      }
      CHECK(persistent);
    }
  }
}

TEST(modelled_time_grows_with_every_size) {
  for (const CpuInfo& cpu : kMachines) {
    for (const char* schedule : {"per_step", "persistent"}) {
      const Problem base = make_problem(CellKind::kGru, 50, 32, 256);
      const double seconds = plan_of(base, cpu, schedule).modelled_seconds;
      Problem more = base;
      more.hidden_size *= 2;
      CHECK(plan_of(more, cpu, schedule).modelled_seconds > seconds);
      more = base;
      more.input_size *= 2;
      CHECK(plan_of(more, cpu, schedule).modelled_seconds > seconds);
      more = base;
      more.batch_size *= 2;
      more.total_rows *= 2;
      CHECK(plan_of(more, cpu, schedule).modelled_seconds > seconds);
      more = base;
      more.seq_len *= 2;
      more.total_rows *= 2;
      CHECK(plan_of(more, cpu, schedule).modelled_seconds > seconds);
      more = base;
      more.dtype = DType::kFloat64;
      CHECK(plan_of(more, cpu, schedule).modelled_seconds > seconds);
    }
  }
}

TEST(one_sequence_is_split_by_units_or_not_at_all) {
  for (const CpuInfo& cpu : kConcurrentMachines) {
    const Plan plan = plan_of(make_problem(CellKind::kLstm, 200, 1, 1024), cpu);
    CHECK(plan.schedule == Schedule::kPersistent);
    if (plan.num_threads > 1) CHECK(plan.split == Split::kUnits);
  }
  CHECK(plan_of(make_problem(CellKind::kLstm, 200, 1, 1024), kTwoCores).num_threads == 2);
}

TEST(little_work_stays_on_one_thread) {
  for (const CpuInfo& cpu : kMachines) {
    CHECK(plan_of(make_problem(CellKind::kGru, 100, 1, 16), cpu, "persistent").num_threads == 1);
    CHECK(plan_of(make_problem(CellKind::kRnnTanh, 100, 2, 32), cpu, "persistent").num_threads ==
          1);
  }
}

TEST(much_work_uses_every_core) {
  CHECK(plan_of(make_problem(CellKind::kLstm, 100, 32, 1024), kTwoCores).num_threads == 2);
  const Plan plan = plan_of(make_problem(CellKind::kLstm, 100, 4096, 256), kManyCores);
  CHECK(plan.num_threads == 64);
  CHECK(plan.split == Split::kRows);
}

TEST(threads_that_cannot_wait_for_each_other_share_rows_only) {
  Plan plan = plan_of(make_problem(CellKind::kLstm, 100, 256, 256), kPlainPool);
  CHECK(plan.schedule == Schedule::kPersistent);
  CHECK(plan.split == Split::kRows);
  CHECK(plan.num_threads == 8);

  const Problem one_sequence = make_problem(CellKind::kLstm, 100, 1, 1024);
  plan = plan_of(one_sequence, kPlainPool, "persistent");
  CHECK(plan.num_threads == 1);
  CHECK(text_of(one_sequence, kPlainPool, plan).find("threads that run at the same time") !=
        std::string::npos);
  CHECK(text_of(one_sequence, kTwoCores, plan_of(one_sequence, kTwoCores)).find("same time") ==
        std::string::npos);
}

TEST(a_schedule_is_forced_by_its_name) {
  const Problem problem = make_problem(CellKind::kLstm, 100, 32, 512);
  const Plan plan = plan_of(problem, kTwoCores, "per_step");
  CHECK(plan.schedule == Schedule::kPerStep);
  CHECK(plan.rejections[0].schedule == Schedule::kPersistent);
  CHECK(std::strstr(plan.rejections[0].reason, "per_step is forced; modelled "));
  CHECK(plan_of(make_problem(CellKind::kLstm, 1, 1, 8), kTwoCores, "persistent").schedule ==
        Schedule::kPersistent);
}

TEST(an_unknown_schedule_is_an_error_that_names_the_known_ones) {
  Plan plan;
  const Status status =
      make_plan(make_problem(CellKind::kGru, 4, 4, 4), kTwoCores, "persistant", &plan);
  CHECK(!status.ok);
  for (const char* word : {"persistant", "per_step", "persistent"}) {
    CHECK(std::strstr(status.message, word));
  }
}

TEST(a_rejected_schedule_says_how_much_slower_it_is) {
  const Problem problem = make_problem(CellKind::kLstm, 100, 32, 512);
  const Plan plan = plan_of(problem, kTwoCores);
  CHECK(plan.schedule == Schedule::kPersistent);
  const double rejected = modelled_seconds(problem, kTwoCores, Schedule::kPerStep, Split::kRows, 2);
  double first = 0, second = 0;
  CHECK(std::sscanf(plan.rejections[0].reason, "modelled %lf ms against %lf ms", &first, &second) ==
        2);
  CHECK(std::fabs(first - rejected * 1e3) <= 0.051);
  CHECK(std::fabs(second - plan.modelled_seconds * 1e3) <= 0.051);
}

TEST(a_chunk_is_large_for_the_product_and_small_for_the_cache) {
  for_each_case([](const Problem& problem, const CpuInfo& cpu) {
    const Plan plan = plan_of(problem, cpu);
    const int64_t gates = problem.cell == CellKind::kLstm  ? 4
                          : problem.cell == CellKind::kGru ? 3
                                                           : 1;
    const int64_t rows = plan.chunk_steps * problem.batch_size;
    const int64_t bytes = rows * gates * problem.hidden_size * 4;
    const bool whole = plan.chunk_steps == problem.seq_len;
    CHECK_THAT(whole || rows >= 96, "%lld rows", static_cast<long long>(rows));
    CHECK_THAT(plan.chunk_steps == 1 || bytes <= 16 << 20 || bytes <= cpu.l3_bytes / 2,
               "%lld bytes", static_cast<long long>(bytes));
    // The last chunk is not much smaller than the others.
    const int64_t chunks = (problem.seq_len + plan.chunk_steps - 1) / plan.chunk_steps;
    CHECK(chunks * plan.chunk_steps < problem.seq_len + chunks);
  });
}

TEST(a_plan_prints_its_choice_its_sizes_and_the_rest) {
  Problem problem = make_problem(CellKind::kLstm, 100, 32, 512);
  problem.proj_size = 96;
  problem.directions = 2;
  const Plan plan = plan_of(problem, kTwoCores);
  const std::string text = text_of(problem, kTwoCores, plan);
  for (const char* part :
       {"lstm float32: seq_len 100, batch_size 32, input_size 512, hidden_size 512, proj_size 96, "
        "each of 2 directions, inference\n",
        "persistent: modelled ", ", 2 threads split by ", " steps at once\n",
        "not per_step: modelled "}) {
    CHECK_THAT(text.find(part) != std::string::npos, "'%s' is not in\n%s", part, text.c_str());
  }
}

TEST(printing_stops_at_the_end_of_its_buffer) {
  const Problem problem = make_problem(CellKind::kGru, 100, 32, 512);
  const Plan plan = plan_of(problem, kTwoCores);
  const std::string whole = text_of(problem, kTwoCores, plan);
  for (size_t size = 0; size <= whole.size() + 2; ++size) {
    std::string text(size + 1, '#');
    const size_t length = print_plan(problem, kTwoCores, plan, &text[0], size);
    const size_t expected = size == 0 ? 0 : std::min(size - 1, whole.size());
    CHECK(length == expected);
    CHECK(text.compare(0, length, whole, 0, length) == 0);
    CHECK(text[size] == '#');
    if (size > 0) CHECK(text[length] == '\0');
  }
}

}  // namespace
}  // namespace fusedrnn

CHECK_MAIN()
