// plan/: which schedule is chosen for machines that are not at hand, what is said about the
// others, what can be forced, and what a plan looks like as text.
//
// Long because CPUs and GPUs are planned for alike: one file has the machines and problems of both.
//
// `test_plan --plans` prints the plans of every GPU here for ten problems.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "cells/registry.h"
#include "check.h"
#include "plan/cpu_plan.h"
#include "plan/cuda_plan.h"

namespace fusedrnn {
namespace {

constexpr CpuInfo kOneThread{Isa::kAvx2, 1, true, 32 << 10, 1 << 20, 32 << 20};
constexpr CpuInfo kTwoCores{Isa::kAvx2, 2, true, 32 << 10, 1 << 20, 32 << 20};
constexpr CpuInfo kManyCores{Isa::kAvx512, 64, true, 48 << 10, 2 << 20, 96 << 20};
constexpr CpuInfo kPlainPool{Isa::kAvx2, 8, false, 32 << 10, 512 << 10, 16 << 20};
constexpr CpuInfo kMachines[] = {kOneThread, kTwoCores, kManyCores, kPlainPool};
constexpr CpuInfo kConcurrentMachines[] = {kOneThread, kTwoCores, kManyCores};
constexpr Pass kPasses[] = {Pass::kForward, Pass::kBackward};

Problem make_problem(CellKind cell, int64_t seq_len, int64_t batch_size, int64_t hidden_size) {
  return {cell,        DType::kFloat32, seq_len, batch_size, seq_len * batch_size,
          hidden_size, hidden_size,     0,       1,          false,
          false};
}

Plan plan_of(const Problem& problem, const CpuInfo& cpu, const char* forced = nullptr,
             Pass pass = Pass::kForward) {
  Plan plan;
  const Status status = make_plan(problem, pass, cpu, forced, &plan);
  CHECK_THAT(status.ok, "%s", status.message);
  return plan;
}

std::string text_of(const Problem& problem, const CpuInfo& cpu, const Plan& plan,
                    Pass pass = Pass::kForward) {
  std::string text(2048, '\0');
  text.resize(print_plan(problem, pass, cpu, plan, &text[0], text.size()));
  return text;
}

// Calls body(problem, cpu) for many shapes on every machine.
template <class Body>
void for_each_case(const Body& body) {
  for (const CpuInfo& cpu : kMachines) {
    for (const CellInfo& info : kCells) {
      const CellKind cell = info.kind;
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
      CHECK(std::strcmp(plan.name, schedule_name(plan.schedule)) == 0);
      CHECK(plan.rejection_count == 1);
      const Candidate& other = plan.rejections[0];
      CHECK(std::strcmp(other.name, plan.name) != 0 && other.reason.format == nullptr);
      CHECK(std::isfinite(other.modelled_seconds) && other.modelled_seconds > 0);
      if (plan.schedule == Schedule::kPersistent && plan.num_threads > 1) {
        CHECK(plan.split == Split::kRows || cpu.concurrent_threads);
        CHECK((plan.min_split_rows > 0) == cpu.concurrent_threads);
        CHECK(plan.split == Split::kUnits || problem.batch_size >= 4 * plan.num_threads);
      }
    }
  });
}

TEST(the_choice_is_the_schedule_of_less_modelled_time) {
  for_each_case([](const Problem& problem, const CpuInfo& cpu) {
    const double per_step = plan_of(problem, cpu, "per_step").modelled_seconds;
    const double persistent = plan_of(problem, cpu, "persistent").modelled_seconds;
    const Plan plan = plan_of(problem, cpu);
    const bool may = cpu.isa == Isa::kGeneric || (problem.seq_len <= kMaxThreadDependentSteps &&
                                                  problem.batch_size >= kMinThreadDependentRows);
    CHECK(plan.modelled_seconds == (may ? std::fmin(per_step, persistent) : persistent));
    CHECK(plan.modelled_seconds == modelled_seconds(problem, Pass::kForward, cpu, plan));
  });
}

TEST(a_single_step_never_packs_weights) {
  for (const CpuInfo& cpu : kMachines) {
    for (const CellInfo& info : kCells) {
      const CellKind cell = info.kind;
      for (int64_t batch_size : {1, 2, 8}) {
        for (int64_t hidden_size : {64, 512, 1024}) {
          const Problem problem = make_problem(cell, 1, batch_size, hidden_size);
          const Plan plan = plan_of(problem, cpu);
          CHECK_THAT(plan.schedule == Schedule::kPerStep || plan.weights == Weights::kInPlace, "%s",
                     text_of(problem, cpu, plan).c_str());
        }
      }
    }
  }
}

TEST(weights_are_packed_from_a_number_of_steps_on) {
  for (const CpuInfo& cpu : kMachines) {
    for (const CellInfo& info : kCells) {
      const CellKind cell = info.kind;
      for (int64_t batch_size : {1, 2, 8}) {
        for (int64_t hidden_size : {64, 512, 1024}) {
          bool packed = false;
          for (int64_t seq_len = 1; seq_len < 5000; seq_len *= 2) {
            const Problem problem = make_problem(cell, seq_len, batch_size, hidden_size);
            const Plan plan = plan_of(problem, cpu, "persistent");
            const bool now = plan.weights == Weights::kPacked;
            CHECK(now || !packed);
            CHECK(now || plan.multiplies_input);
            const std::string line = std::string("weights: ") + weights_name(plan.weights) + "\n";
            CHECK(text_of(problem, cpu, plan).find(line) != std::string::npos);
            packed = now;
          }
          CHECK(packed);
        }
      }
    }
  }
}

TEST(weights_in_fewer_bytes_are_read_in_place_for_at_least_as_many_steps) {
  for_each_case([](Problem problem, const CpuInfo& cpu) {
    const Plan same = plan_of(problem, cpu);
    for (WeightFormat format :
         {WeightFormat::kBFloat16, WeightFormat::kFloat16, WeightFormat::kInt8}) {
      problem.format = format;
      const Plan plan = plan_of(problem, cpu);
      if (same.weights == Weights::kInPlace) CHECK(plan.weights == Weights::kInPlace);
      // A copy comes before all else.
      if (plan.weights != Weights::kInPlace) CHECK(plan.modelled_seconds > same.modelled_seconds);
    }
  });
  Problem problem = make_problem(kind_of<Lstm>, 1, 1, 512);
  const double seconds = plan_of(problem, kTwoCores).modelled_seconds;
  problem.format = WeightFormat::kInt8;
  const Plan plan = plan_of(problem, kTwoCores);
  CHECK(plan.modelled_seconds < seconds);
  CHECK(text_of(problem, kTwoCores, plan).find("\nweight dtype: int8\n") != std::string::npos);
}

TEST(the_number_of_threads_does_not_decide_how_weights_are_read) {
  for_each_case([](const Problem& problem, CpuInfo cpu) {
    const Weights weights = plan_of(problem, cpu, "persistent").weights;
    for (int threads : {1, 2, 5}) {
      cpu.num_threads = threads;
      CHECK(plan_of(problem, cpu, "persistent").weights == weights);
    }
  });
}

TEST(a_backward_pass_packs_weights) {
  for_each_case([](Problem problem, const CpuInfo& cpu) {
    const Weights weights = plan_of(problem, cpu, "persistent").weights;
    problem.training = true;
    CHECK(plan_of(problem, cpu, "persistent").weights == weights);
    CHECK(plan_of(problem, cpu, "persistent", Pass::kBackward).weights == Weights::kPacked);
  });
}

TEST(a_long_sequence_packs_them_once) {
  for (const CpuInfo& cpu : kConcurrentMachines) {
    for (const CellInfo& info : kCells) {
      const CellKind cell = info.kind;
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
        const Plan plan = plan_of(make_problem(kind_of<Lstm>, seq_len, batch_size, 256), cpu);
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
      const Problem base = make_problem(kind_of<Gru>, 50, 32, 256);
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
    const Plan plan = plan_of(make_problem(kind_of<Lstm>, 200, 1, 1024), cpu);
    CHECK(plan.schedule == Schedule::kPersistent);
    if (plan.num_threads > 1) CHECK(plan.split == Split::kUnits);
  }
  CHECK(plan_of(make_problem(kind_of<Lstm>, 200, 1, 1024), kTwoCores).num_threads == 2);
}

TEST(little_work_stays_on_one_thread) {
  for (const CpuInfo& cpu : kMachines) {
    CHECK(plan_of(make_problem(kind_of<Gru>, 100, 1, 16), cpu, "persistent").num_threads == 1);
    CHECK(plan_of(make_problem(kind_of<RnnTanh>, 100, 2, 32), cpu, "persistent").num_threads == 1);
  }
}

TEST(directions_share_the_threads_or_take_turns) {
  for_each_case([](Problem problem, const CpuInfo& cpu) {
    const double one_direction = plan_of(problem, cpu).modelled_seconds;
    CHECK(plan_of(problem, cpu).directions_at_once == 1);
    problem.directions = 2;
    const Plan plan = plan_of(problem, cpu);
    CHECK(plan.modelled_seconds <= 2 * one_direction);
    CHECK(plan.directions_at_once * plan.num_threads <= cpu.num_threads);
    const bool at_once =
        text_of(problem, cpu, plan).find("both at the same time") != std::string::npos;
    CHECK(at_once == (plan.directions_at_once == 2));
  });
  for (const CellInfo& info : kCells) {
    const CellKind cell = info.kind;
    Problem problem = make_problem(cell, 100, 1, 128);
    problem.directions = 2;
    CHECK(plan_of(problem, kTwoCores).directions_at_once == 2);
    CHECK(plan_of(problem, kTwoCores, "per_step").directions_at_once == 2);
    CHECK(plan_of(problem, kOneThread).directions_at_once == 1);
    problem = make_problem(cell, 4, 3, 7);
    problem.directions = 2;
    CHECK(plan_of(problem, kTwoCores, "persistent").directions_at_once == 1);
  }
  // Each half of these weights stays in its core's cache, all of them would not.
  Problem problem = make_problem(kind_of<Lstm>, 100, 1, 512);
  problem.directions = 2;
  CHECK(
      plan_of(problem, {Isa::kAvx512, 2, true, 48 << 10, 2 << 20, 260 << 20}).directions_at_once ==
      1);
  CHECK(plan_of(problem, kManyCores).num_threads > 1);
}

TEST(much_work_uses_every_core) {
  CHECK(plan_of(make_problem(kind_of<Lstm>, 100, 32, 1024), kTwoCores).num_threads == 2);
  const Plan plan = plan_of(make_problem(kind_of<Lstm>, 100, 4096, 256), kManyCores);
  CHECK(plan.num_threads == 64);
  CHECK(plan.split == Split::kRows);
}

// The cores of a machine that is not at hand, on one socket or on two.
CpuInfo many_cores(int cores, int sockets) {
  return {
      Isa::kAvx2, cores, true, 32 << 10, 512 << 10, 32 << 20, sockets > 1 ? cores / sockets : 0};
}

TEST(a_layer_of_few_units_has_few_threads_however_many_cores_there_are) {
  for (int cores : {8, 16, 64}) {
    for (int sockets : {1, 2}) {
      for (Pass pass : kPasses) {
        const CpuInfo cpu = many_cores(cores, sockets);
        Problem problem = make_problem(kind_of<Gru>, 100, 1, 64);
        problem.training = true;
        CHECK(plan_of(problem, cpu, nullptr, pass).num_threads == 1);
        // Units enough for all of them.
        problem = make_problem(kind_of<Lstm>, 100, 1, 4096);
        problem.training = true;
        CHECK(plan_of(problem, cpu, nullptr, pass).num_threads >= 8);
      }
    }
  }
}

TEST(no_more_threads_share_units_than_there_are_panels) {
  for (Pass pass : kPasses) {
    for (int cores : {8, 16, 64}) {
      for (int64_t hidden_size : {1, 16, 65, 128, 512}) {
        const Problem problem = make_problem(kind_of<Lstm>, 100, 3, hidden_size);
        const CpuInfo cpu = many_cores(cores, 1);
        const Plan plan = plan_of(problem, cpu, "persistent", pass);
        const int64_t units = units_of_panel(problem, pass, cpu.isa);
        CHECK(plan.num_threads == 1 || plan.num_threads <= (hidden_size + units - 1) / units);
      }
    }
  }
}

TEST(a_second_socket_makes_a_barrier_dearer_and_never_a_plan_faster) {
  for (Pass pass : kPasses) {
    for (int64_t batch_size : {1, 16, 256}) {
      const Problem problem = make_problem(kind_of<Lstm>, 100, batch_size, 1024);
      const CpuSizes units{Schedule::kPersistent, Split::kUnits, 64, 1, Weights::kPacked};
      const CpuSizes half{Schedule::kPersistent, Split::kUnits, 32, 1, Weights::kPacked};
      const CpuInfo one = many_cores(64, 1), two = many_cores(64, 2);
      CHECK(modelled_seconds(problem, pass, two, units) >
            modelled_seconds(problem, pass, one, units));
      CHECK(modelled_seconds(problem, pass, two, half) ==
            modelled_seconds(problem, pass, one, half));
      CHECK(plan_of(problem, two, nullptr, pass).modelled_seconds >=
            plan_of(problem, one, nullptr, pass).modelled_seconds);
    }
  }
  // One sequence stays on a socket.
  CHECK(plan_of(make_problem(kind_of<Lstm>, 100, 1, 1024), many_cores(64, 1)).num_threads == 64);
  CHECK(plan_of(make_problem(kind_of<Lstm>, 100, 1, 1024), many_cores(64, 2)).num_threads == 32);
}

TEST(what_depends_on_the_number_of_threads_is_not_chosen_for_its_time) {
  bool is_kept_back = false;
  for (Pass pass : kPasses) {
    for_each_case([&](const Problem& problem, const CpuInfo& cpu) {
      const Plan plan = plan_of(problem, cpu, nullptr, pass);
      if (cpu.isa == Isa::kGeneric) return;
      if (problem.seq_len > kMaxThreadDependentSteps ||
          problem.batch_size < kMinThreadDependentRows)
        CHECK(plan.schedule == Schedule::kPersistent);
      CHECK(plan_of(problem, cpu, "per_step", pass).schedule == Schedule::kPerStep);
      const bool says_so =
          text_of(problem, cpu, plan, pass).find("not per_step: its bits depend") !=
          std::string::npos;
      CHECK(!says_so || plan.rejections[0].modelled_seconds < plan.modelled_seconds);
      is_kept_back = is_kept_back || says_so;
    });
  }
  CHECK(is_kept_back);
}

TEST(what_threads_hand_to_each_other_costs_more_with_more_rows) {
  const auto over_rows = [](int64_t batch_size, Pass pass) {
    const Problem problem = make_problem(kind_of<Gru>, 100, batch_size, 128);
    const auto seconds = [&](Split split) {
      return modelled_seconds(problem, pass, kTwoCores,
                              {Schedule::kPersistent, split, 2, 1, Weights::kPacked});
    };
    return (seconds(Split::kUnits) - seconds(Split::kRows)) / 100;
  };
  // 15 rows by units took 2 to 3 us a step more than they would have by rows, backward three times
  // as many bytes.
  CHECK(over_rows(16, Pass::kForward) > 1e-6 && over_rows(16, Pass::kForward) < 5e-6);
  CHECK(over_rows(128, Pass::kForward) > 3 * over_rows(16, Pass::kForward));
  CHECK(over_rows(16, Pass::kBackward) > over_rows(16, Pass::kForward));
}

TEST(threads_that_cannot_wait_for_each_other_share_rows_only) {
  Plan plan = plan_of(make_problem(kind_of<Lstm>, 100, 256, 256), kPlainPool);
  CHECK(plan.schedule == Schedule::kPersistent);
  CHECK(plan.split == Split::kRows);
  CHECK(plan.num_threads == 8);

  const Problem one_sequence = make_problem(kind_of<Lstm>, 100, 1, 1024);
  plan = plan_of(one_sequence, kPlainPool, "persistent");
  CHECK(plan.num_threads == 1);
  CHECK(text_of(one_sequence, kPlainPool, plan).find("threads that run at the same time") !=
        std::string::npos);
  CHECK(text_of(one_sequence, kTwoCores, plan_of(one_sequence, kTwoCores)).find("same time") ==
        std::string::npos);
}

TEST(a_schedule_is_forced_by_its_name) {
  const Problem problem = make_problem(kind_of<Lstm>, 100, 32, 512);
  const Plan plan = plan_of(problem, kTwoCores, "per_step");
  CHECK(plan.schedule == Schedule::kPerStep);
  CHECK(std::strcmp(plan.rejections[0].name, "persistent") == 0);
  CHECK(text_of(problem, kTwoCores, plan).find("not persistent: per_step is forced; modelled ") !=
        std::string::npos);
  CHECK(plan_of(make_problem(kind_of<Lstm>, 1, 1, 8), kTwoCores, "persistent").schedule ==
        Schedule::kPersistent);
}

TEST(an_unknown_schedule_is_an_error_that_names_the_known_ones) {
  Plan plan;
  const Status status = make_plan(make_problem(kind_of<Gru>, 4, 4, 4), Pass::kForward, kTwoCores,
                                  "persistant", &plan);
  CHECK(!status.ok);
  for (const char* word : {"persistant", "per_step", "persistent"}) {
    CHECK(std::strstr(status.message, word));
  }
}

TEST(a_rejected_schedule_says_how_much_slower_it_is) {
  const Problem problem = make_problem(kind_of<Lstm>, 100, 32, 512);
  const Plan plan = plan_of(problem, kTwoCores);
  CHECK(plan.schedule == Schedule::kPersistent);
  const double rejected =
      modelled_seconds(problem, Pass::kForward, kTwoCores,
                       {Schedule::kPerStep, Split::kRows, 2, 1, Weights::kPacked});
  const std::string text = text_of(problem, kTwoCores, plan);
  const size_t reason = text.find("not per_step: ");
  CHECK(reason != std::string::npos);
  double first = 0, second = 0;
  CHECK(std::sscanf(text.c_str() + reason, "not per_step: modelled %lf ms against %lf ms", &first,
                    &second) == 2);
  CHECK(std::fabs(first - rejected * 1e3) <= 0.051);
  CHECK(std::fabs(second - plan.modelled_seconds * 1e3) <= 0.051);
}

TEST(a_chunk_is_large_for_the_product_and_small_for_the_cache) {
  for_each_case([](const Problem& problem, const CpuInfo& cpu) {
    const Plan plan = plan_of(problem, cpu);
    const int64_t gates = cell_info(problem.cell).gates;
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

TEST(the_sweep_multiplies_the_input_when_rows_outweigh_two_weights) {
  for_each_case([](const Problem& problem, const CpuInfo& cpu) {
    const Plan plan = plan_of(problem, cpu);
    const CellInfo& cell = cell_info(problem.cell);
    const int64_t output_size = problem.proj_size > 0 ? problem.proj_size : problem.hidden_size;
    const int64_t weights = cell.gates * problem.hidden_size * (problem.input_size + output_size);
    const bool are_large = weights * accum_bytes(problem.dtype) > 2 * cpu.l2_bytes;
    const bool can = plan.schedule == Schedule::kPersistent && cpu.isa != Isa::kGeneric &&
                     !(cell.split && problem.training);
    CHECK(plan.multiplies_input == (plan.weights == Weights::kInPlace ||
                                    (can && problem.batch_size >= (are_large ? 64 : 16))));
    char text[2048];
    print_plan(problem, Pass::kForward, cpu, plan, text, sizeof(text));
    CHECK((std::strstr(text, "projection: in the sweep") != nullptr) == plan.multiplies_input);
    CHECK((std::strstr(text, " steps at once\n") != nullptr) != plan.multiplies_input);
  });
}

TEST(a_plan_prints_its_choice_its_sizes_and_the_rest) {
  Problem problem = make_problem(kind_of<Lstm>, 100, 32, 512);
  problem.proj_size = 96;
  problem.directions = 2;
  const Plan plan = plan_of(problem, kManyCores);
  const std::string text = text_of(problem, kManyCores, plan);
  for (const char* part : {"problem: lstm float32, seq_len 100, batch_size 32, input_size 512, "
                           "hidden_size 512, proj_size 96, "
                           "2 directions, inference\n",
                           "forward: persistent, modelled ", ", 32 threads split by ",
                           "weights: packed once a call\n", "directions: one after the other\n",
                           "input projection: 20 steps at once\n", "not per_step: modelled "}) {
    CHECK_THAT(text.find(part) != std::string::npos, "'%s' is not in\n%s", part, text.c_str());
  }
}

TEST(printing_stops_at_the_end_of_its_buffer) {
  const Problem problem = make_problem(kind_of<Gru>, 100, 32, 512);
  const Plan plan = plan_of(problem, kTwoCores);
  const std::string whole = text_of(problem, kTwoCores, plan);
  for (size_t size = 0; size <= whole.size() + 2; ++size) {
    std::string text(size + 1, '#');
    const size_t length = print_plan(problem, Pass::kForward, kTwoCores, plan, &text[0], size);
    const size_t expected = size == 0 ? 0 : std::min(size - 1, whole.size());
    CHECK(length == expected);
    CHECK(text.compare(0, length, whole, 0, length) == 0);
    CHECK(text[size] == '#');
    if (size > 0) CHECK(text[length] == '\0');
  }
}

// The makers' figures of GPUs that are not at hand.
constexpr CudaInfo gpu(const char* name, int arch, int sms, int smem_kb, int l2_mb,
                       double clock_ghz, double bandwidth) {
  CudaInfo info{};
  for (int i = 0; name[i] != 0; ++i) info.name[i] = name[i];
  info.sm_arch = arch;
  info.sm_count = sms;
  info.smem_bytes_per_block = smem_kb * 1024;
  info.smem_bytes_per_sm = (smem_kb + 1) * 1024;
  info.l2_bytes = static_cast<int64_t>(l2_mb) << 20;
  info.clock_ghz = clock_ghz;
  info.memory_bytes_per_second = bandwidth;
  info.registers_per_sm = 65536;
  info.max_cluster = arch < 90 ? 1 : arch < 120 ? 16 : 8;
  info.cooperative = true;
  info.programmatic = arch >= 90;
  return info;
}
constexpr CudaInfo kH200 = gpu("NVIDIA H200", 90, 132, 227, 60, 1.98, 4.8e12);
constexpr CudaInfo kA100 = gpu("NVIDIA A100", 80, 108, 163, 40, 1.41, 2.0e12);
constexpr CudaInfo kRtx4090 = gpu("NVIDIA RTX 4090", 89, 128, 99, 72, 2.52, 1.01e12);
constexpr CudaInfo kL4 = gpu("NVIDIA L4", 89, 58, 99, 48, 2.04, 0.3e12);
constexpr CudaInfo kRtx5090 = gpu("NVIDIA RTX 5090", 120, 170, 99, 96, 2.41, 1.79e12);
constexpr CudaInfo kB200 = gpu("NVIDIA B200", 100, 148, 227, 126, 1.97, 8.0e12);
constexpr CudaInfo kV100 = gpu("NVIDIA V100", 70, 80, 96, 6, 1.53, 0.9e12);
constexpr CudaInfo kGpus[] = {kH200, kA100, kRtx4090, kL4, kRtx5090, kB200, kV100};
constexpr DType kDTypes[] = {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16};

Problem training_problem(CellKind cell, DType dtype, int64_t seq_len, int64_t batch_size,
                         int64_t hidden_size, int directions = 1) {
  Problem problem = make_problem(cell, seq_len, batch_size, hidden_size);
  problem.dtype = dtype;
  problem.directions = directions;
  problem.training = true;
  return problem;
}

CudaPlan cuda_plan_of(const Problem& problem, Pass pass, const CudaInfo& gpu,
                      const char* forced = nullptr, const char* graph = nullptr) {
  CudaPlan plan{};
  const Status status = make_cuda_plan(problem, pass, gpu, {forced, graph}, &plan);
  CHECK_THAT(status.ok, "%s", status.message);
  return plan;
}

std::string cuda_text_of(const Problem& problem, Pass pass, const CudaInfo& gpu,
                         const char* forced = nullptr, const char* graph = nullptr) {
  const CudaPlan plan = cuda_plan_of(problem, pass, gpu, forced, graph);
  std::string text(2048, '\0');
  text.resize(print_cuda_plan(problem, pass, gpu, plan, &text[0], text.size()));
  return text;
}

std::string refusal(const Problem& problem, const CudaInfo& gpu, const char* forced,
                    const char* graph = nullptr) {
  CudaPlan plan{};
  const Status status = make_cuda_plan(problem, Pass::kForward, gpu, {forced, graph}, &plan);
  CHECK_THAT(!status.ok, "%s was not refused", forced != nullptr ? forced : graph);
  return status.message;
}

// Calls body(problem, pass, gpu) for many shapes on every GPU.
template <class Body>
void for_each_cuda_case(const Body& body) {
  for (const CudaInfo& gpu : kGpus) {
    for (const CellInfo& info : kCells) {
      const CellKind cell = info.kind;
      for (DType dtype : kDTypes) {
        for (int64_t seq_len : {1, 7, 1000, 100000}) {
          for (int64_t batch_size : {1, 3, 16, 1000}) {
            for (int64_t hidden_size : {1, 65, 128, 193, 512, 2048}) {
              for (int directions : {1, 2}) {
                for (Pass pass : kPasses) {
                  body(training_problem(cell, dtype, seq_len, batch_size, hidden_size, directions),
                       pass, gpu);
                }
              }
            }
          }
        }
      }
    }
  }
}

TEST(every_cuda_plan_is_one_that_can_run) {
  for_each_cuda_case([](const Problem& problem, Pass pass, const CudaInfo& gpu) {
    const CudaPlan plan = cuda_plan_of(problem, pass, gpu);
    CHECK(plan.chunk_steps >= 1 && plan.chunk_steps <= problem.seq_len);
    CHECK(std::isfinite(plan.modelled_seconds) && plan.modelled_seconds > 0);
    CHECK(plan.rejection_count == 2);
    for (const Candidate& other : plan.rejections) {
      CHECK(std::strcmp(other.name, plan.name) != 0);
      CHECK(other.reason.format != nullptr || other.modelled_seconds >= plan.modelled_seconds);
    }
    if (plan.schedule != Schedule::kSingleBlock) return;
    CHECK(plan.unit_threads % 32 == 0 && plan.unit_threads >= problem.hidden_size);
    CHECK(plan.threads <= kSingleBlockMaxThreads && plan.threads % plan.unit_threads == 0);
    CHECK(plan.thread_rows >= 1 && plan.thread_rows <= max_thread_rows(problem.dtype));
    CHECK(plan.batch_tile == plan.thread_rows * plan.threads / plan.unit_threads);
    CHECK(plan.batch_tile == 1 || plan.batch_tile < 2 * problem.batch_size);
    CHECK(plan.smem_bytes == single_block_smem_bytes(problem, pass, plan.batch_tile));
    CHECK(plan.smem_bytes <= gpu.smem_bytes_per_block);
  });
}

TEST(a_device_that_tells_nothing_has_a_plan_all_the_same) {
  CudaInfo silent{};
  silent.sm_arch = 90;
  silent.smem_bytes_per_block = 48 * 1024;
  for (const char* forced : {"", "per_step/product", "per_step/fused", "single_block"}) {
    for (Pass pass : kPasses) {
      for (DType dtype : kDTypes) {
        const Problem problem = training_problem(kind_of<Gru>, dtype, 100, 16, 32);
        const CudaPlan plan = cuda_plan_of(problem, pass, silent, forced);
        CHECK(std::isfinite(plan.modelled_seconds) && plan.modelled_seconds > 0);
        for (const Candidate& other : plan.rejections) CHECK(std::isfinite(other.modelled_seconds));
      }
    }
  }
}

TEST(a_cuda_plan_names_the_kernel_it_wants) {
  for_each_cuda_case([](const Problem& problem, Pass pass, const CudaInfo& gpu) {
    const CudaPlan plan = cuda_plan_of(problem, pass, gpu);
    const std::string instance = plan.instance;
    if (plan.schedule == Schedule::kSingleBlock) {
      CHECK(instance.find("single_block, " + std::to_string(plan.thread_rows)) == 0);
    } else {
      CHECK(instance.find(plan.form == StepForm::kFused ? "fused" : "pointwise") == 0);
      CHECK((plan.row_tile > 0) == (instance.find("tensor cores") != std::string::npos));
    }
    CHECK(!plan.programmatic || (gpu.programmatic && plan.form == StepForm::kFused));
  });
}

TEST(the_cuda_choice_is_the_candidate_of_least_modelled_time) {
  for_each_cuda_case([](const Problem& problem, Pass pass, const CudaInfo& gpu) {
    const CudaPlan chosen = cuda_plan_of(problem, pass, gpu);
    CHECK(chosen.modelled_seconds == modelled_cuda_seconds(problem, pass, gpu, chosen));
    for (const char* name : {"per_step/product", "per_step/fused", "single_block"}) {
      CudaPlan other{};
      if (!make_cuda_plan(problem, pass, gpu, {name, nullptr}, &other).ok) continue;
      CHECK(chosen.modelled_seconds <= other.modelled_seconds);
    }
  });
}

TEST(single_block_is_possible_while_weight_hh_fits_one_block) {
  // The largest hidden sizes of a forward pass on 227 KB, batch rows one at a time.
  const auto fits = [](CellKind cell, DType dtype, int64_t hidden_size) {
    const Problem problem = training_problem(cell, dtype, 100, 1, hidden_size);
    CudaPlan plan{};
    return make_cuda_plan(problem, Pass::kForward, kH200, {"single_block", nullptr}, &plan).ok;
  };
  CHECK(fits(kind_of<Lstm>, DType::kFloat32, 120) && !fits(kind_of<Lstm>, DType::kFloat32, 121));
  CHECK(fits(kind_of<Gru>, DType::kFloat32, 138) && !fits(kind_of<Gru>, DType::kFloat32, 140));
  CHECK(fits(kind_of<Lstm>, DType::kBFloat16, 168) && !fits(kind_of<Lstm>, DType::kBFloat16, 171));
  CHECK(fits(kind_of<RnnTanh>, DType::kFloat16, 337) &&
        !fits(kind_of<RnnTanh>, DType::kFloat16, 342));
}

TEST(single_block_refuses_what_it_cannot_run_with_need_and_have) {
  const Problem large = training_problem(kind_of<Lstm>, DType::kFloat32, 100, 16, 256);
  CHECK(refusal(large, kH200, "single_block") ==
        "schedule single_block: weight_hh of one direction and its buffers need 1026 KiB of shared "
        "memory, the device has 227 a block");
  Problem packed = training_problem(kind_of<Lstm>, DType::kFloat32, 100, 16, 64);
  packed.packed = true;
  CHECK(refusal(packed, kH200, "single_block") ==
        "schedule single_block: packed input: only per_step takes steps that differ in rows");
  Problem projected = training_problem(kind_of<Lstm>, DType::kFloat32, 100, 16, 64);
  projected.proj_size = 32;
  for (const char* name : {"single_block", "per_step/fused"}) {
    CHECK(refusal(projected, kH200, name) ==
          std::string("schedule ") + name + ": projection: only per_step/product has it");
  }
  const CudaPlan plan = cuda_plan_of(projected, Pass::kForward, kH200);
  CHECK(plan.schedule == Schedule::kPerStep && plan.form == StepForm::kProduct);
  CHECK(cuda_text_of(packed, Pass::kForward, kH200).find("not single_block: packed input: ") !=
        std::string::npos);
}

TEST(small_layers_over_many_steps_stay_in_one_block) {
  for (const CudaInfo& gpu : kGpus) {
    for (Pass pass : kPasses) {
      const Problem problem = training_problem(kind_of<Lstm>, DType::kFloat32, 500, 16, 64, 2);
      const CudaPlan plan = cuda_plan_of(problem, pass, gpu);
      CHECK_THAT(plan.schedule == Schedule::kSingleBlock, "%s",
                 cuda_text_of(problem, pass, gpu).c_str());
      const Problem large = training_problem(kind_of<Lstm>, DType::kFloat32, 500, 16, 1024);
      CHECK(cuda_plan_of(large, pass, gpu).schedule == Schedule::kPerStep);
    }
  }
}

TEST(large_batches_take_the_library_product) {
  for (const CudaInfo& gpu : kGpus) {
    const Problem problem = training_problem(kind_of<Lstm>, DType::kFloat16, 50, 512, 1024);
    const CudaPlan plan = cuda_plan_of(problem, Pass::kForward, gpu);
    CHECK_THAT(plan.schedule == Schedule::kPerStep && plan.form == StepForm::kProduct, "%s",
               cuda_text_of(problem, Pass::kForward, gpu).c_str());
  }
}

TEST(a_cuda_schedule_is_forced_by_its_name) {
  const Problem problem = training_problem(kind_of<Gru>, DType::kFloat32, 100, 16, 64);
  CHECK(cuda_plan_of(problem, Pass::kForward, kA100, "per_step/product").form ==
        StepForm::kProduct);
  CHECK(cuda_plan_of(problem, Pass::kForward, kA100, "per_step/fused").form == StepForm::kFused);
  CHECK(cuda_plan_of(problem, Pass::kForward, kA100, "per_step").schedule == Schedule::kPerStep);
  const std::string text = cuda_text_of(problem, Pass::kForward, kA100, "per_step");
  CHECK_THAT(text.find("not single_block: per_step is forced; modelled ") != std::string::npos,
             "%s", text.c_str());
  for (const std::string unknown : {"persistent", "per_step/", "per_", "single_block/", "/"}) {
    CHECK(refusal(problem, kA100, unknown.c_str()) ==
          "schedule: expected one of per_step, per_step/product, per_step/fused, single_block on "
          "CUDA, got '" +
              unknown + "'");
  }
}

TEST(the_steps_of_fused_are_recorded_where_that_is_faster) {
  for_each_cuda_case([](const Problem& problem, Pass pass, const CudaInfo& gpu) {
    const CudaPlan chosen = cuda_plan_of(problem, pass, gpu, "per_step/fused");
    const CudaPlan each = cuda_plan_of(problem, pass, gpu, "per_step/fused", "0");
    CHECK(each.recording == Recording::kNever);
    CHECK(chosen.modelled_seconds <= each.modelled_seconds);
    CHECK((chosen.recording == Recording::kWhenRepeated) ==
          (chosen.modelled_seconds < each.modelled_seconds));
    CHECK((chosen.recording == Recording::kNever) == (chosen.not_recorded.name != nullptr));
    if (problem.seq_len == 1 || problem.seq_len > kMaxRecordedKernels) {
      CHECK(chosen.recording == Recording::kNever);
    }
    if (problem.seq_len == 1000 && problem.batch_size <= 16) {
      CHECK(chosen.recording == Recording::kWhenRepeated);
    }
  });
}

TEST(a_graph_is_forced_or_refused_with_its_reason) {
  const Problem problem = training_problem(kind_of<Gru>, DType::kFloat32, 4, 16, 1024);
  const auto text = [&](const char* schedule, const char* graph) {
    return cuda_text_of(problem, Pass::kForward, kH200, schedule, graph);
  };
  CHECK(text("per_step/fused", nullptr).find("\nnot a graph: modelled ") != std::string::npos);
  CHECK(text("per_step/fused", "0").find("\nnot a graph: FUSEDRNN_CUDA_GRAPH=0\n") !=
        std::string::npos);
  CHECK(text("per_step/product", "").find("\nnot a graph: torch's products ") != std::string::npos);
  CHECK(text("per_step/fused", "1").find(", recorded as a graph\n") != std::string::npos);
  const CudaPlan forced = cuda_plan_of(problem, Pass::kForward, kH200, nullptr, "1");
  CHECK(forced.form == StepForm::kFused && forced.recording == Recording::kAlways);
  CHECK(text(nullptr, "1").find("not per_step/product: FUSEDRNN_CUDA_GRAPH=1: torch's products ") !=
        std::string::npos);

  CHECK(refusal(problem, kH200, nullptr, "yes") ==
        "FUSEDRNN_CUDA_GRAPH: expected 0 or 1, got 'yes'");
  CHECK(refusal(problem, kH200, "per_step/product", "1") ==
        "schedule per_step/product: FUSEDRNN_CUDA_GRAPH=1: torch's products may move their "
        "workspace between two launches");
  Problem longer = problem;
  longer.seq_len = kMaxRecordedKernels + 1;
  longer.total_rows = longer.seq_len * longer.batch_size;
  for (const char* schedule : {"", "per_step", "per_step/fused"}) {
    CHECK(refusal(longer, kH200, schedule, "1") ==
          "schedule per_step/fused: FUSEDRNN_CUDA_GRAPH=1: 16385 kernels, a graph has 16384 at "
          "most");
  }
  CHECK(refusal(longer, kH200, "single_block", "1").find("schedule single_block: weight_hh ") == 0);

  // The steps of a packed sequence are recorded only if that is forced; single_block has none.
  Problem packed = problem;
  packed.packed = true;
  packed.seq_len = 1000;
  packed.total_rows = packed.seq_len * packed.batch_size;
  const CudaPlan plan = cuda_plan_of(packed, Pass::kForward, kH200, "per_step/fused");
  CHECK(plan.recording == Recording::kNever &&
        std::string(plan.not_recorded.reason.format).find("packed input: ") == 0);
  CHECK(cuda_plan_of(packed, Pass::kForward, kH200, nullptr, "1").recording == Recording::kAlways);
  const Problem small = training_problem(kind_of<Lstm>, DType::kFloat32, 500, 16, 64);
  CHECK(cuda_plan_of(small, Pass::kForward, kH200, nullptr, "1").schedule ==
        Schedule::kSingleBlock);
}

TEST(tf32_is_as_torch_allows_it) {
  const Problem problem = training_problem(kind_of<Lstm>, DType::kFloat32, 50, 512, 1024);
  CudaInfo tf32 = kH200;
  tf32.allow_tf32 = true;
  const double strict = cuda_plan_of(problem, Pass::kForward, kH200).modelled_seconds;
  CHECK(cuda_plan_of(problem, Pass::kForward, tf32).modelled_seconds < strict);
}

TEST(a_cuda_plan_prints_its_choice_its_sizes_and_the_rest) {
  Problem problem = training_problem(kind_of<Lstm>, DType::kBFloat16, 500, 16, 64, 2);
  std::string text = cuda_text_of(problem, Pass::kForward, kH200);
  for (const char* part :
       {"problem: lstm bfloat16, seq_len 500, batch_size 16, input_size 64, hidden_size 64, 2 "
        "directions, "
        "training\n",
        "forward on NVIDIA H200: single_block, modelled ", " blocks of ", " KiB of shared memory\n",
        "not per_step/product: modelled ", "not per_step/fused: modelled "}) {
    CHECK_THAT(text.find(part) != std::string::npos, "'%s' is not in\n%s", part, text.c_str());
  }
  text = cuda_text_of(problem, Pass::kBackward, kH200);
  CHECK(text.rfind("backward on NVIDIA H200: ", 0) == 0);
}

TEST(a_cuda_chunk_is_bounded_in_bytes) {
  for_each_cuda_case([](const Problem& problem, Pass pass, const CudaInfo& gpu) {
    const CudaPlan plan = cuda_plan_of(problem, pass, gpu);
    const int64_t row = problem.directions * 4 * problem.hidden_size * accum_bytes(problem.dtype);
    CHECK(plan.chunk_steps == 1 ||
          plan.chunk_steps * problem.batch_size * row <= int64_t{4} * (256 << 20));
  });
}

void print_plans() {
  Problem projected = training_problem(kind_of<Lstm>, DType::kFloat32, 100, 32, 512);
  projected.proj_size = 128;
  Problem packed = training_problem(kind_of<Gru>, DType::kFloat32, 100, 32, 128);
  packed.packed = true;
  Problem step = make_problem(kind_of<Lstm>, 1, 1, 128);
  const Problem problems[] = {
      training_problem(kind_of<Lstm>, DType::kFloat32, 100, 1, 128),
      training_problem(kind_of<Lstm>, DType::kFloat32, 100, 64, 64, 2),
      training_problem(kind_of<Gru>, DType::kBFloat16, 1000, 16, 160),
      training_problem(kind_of<RnnTanh>, DType::kFloat16, 500, 256, 256),
      training_problem(kind_of<Lstm>, DType::kFloat64, 100, 16, 96),
      training_problem(kind_of<Lstm>, DType::kFloat16, 512, 16, 768),
      training_problem(kind_of<Lstm>, DType::kFloat32, 50, 512, 1024),
      projected,
      packed,
      step,
  };
  for (const CudaInfo& gpu : kGpus) {
    for (const Problem& problem : problems) {
      std::printf("%s", cuda_text_of(problem, Pass::kForward, gpu).c_str());
      if (problem.training) {
        std::printf("%s", cuda_text_of(problem, Pass::kBackward, gpu).c_str());
      }
      std::printf("\n");
    }
  }
}

}  // namespace
}  // namespace fusedrnn

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--plans") == 0) {
    fusedrnn::print_plans();
    return 0;
  }
  return check::run(argc, argv);
}
