// What would run: the operators that name schedules and instruction sets.
#include "bindings/chosen_plan.h"

#include <ATen/Context.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "bindings/cpu_torch_runtime.h"
#include "bindings/settings.h"

namespace fusedrnn {
namespace {

constexpr Isa kIsas[] = {Isa::kGeneric, Isa::kAvx2, Isa::kAvx512};

Isa current_isa() {
  Isa isa;
  check_status(select_isa(settings().cpu_isa.c_str(), &isa));
  return isa;
}

Plan make_checked_plan(const Problem& problem, Pass pass, const CpuInfo& cpu) {
  Plan plan;
  check_status(make_plan(problem, pass, cpu, settings().schedule.c_str(), &plan));
  return plan;
}

std::vector<std::string> isa_names(bool (*condition)(Isa)) {
  std::vector<std::string> names;
  for (Isa isa : kIsas) {
    if (condition(isa)) names.emplace_back(isa_name(isa));
  }
  return names;
}

CpuInfo this_machine() {
  return query_cpu(current_isa(), available_threads(), concurrent_threads());
}

// The one described: threads, those of one of several sockets or 0, bytes of L1, L2 and L3, and an
// ISA, which need not be one that runs here.
CpuInfo described_machine(at::IntArrayRef numbers, std::string_view isa) {
  TORCH_CHECK_VALUE(numbers.size() == 5,
                    "machine: expected threads, threads of a socket, bytes of "
                    "L1, L2 and L3, got ",
                    numbers.size(), " numbers");
  constexpr int64_t kMostThreads = 4096;
  TORCH_CHECK_VALUE(numbers[0] >= 1 && numbers[0] <= kMostThreads && numbers[1] >= 0 &&
                        numbers[1] <= numbers[0] && numbers[2] > 0 && numbers[3] > 0 &&
                        numbers[4] > 0,
                    "machine: expected 1 to ", kMostThreads,
                    " threads, no more on a socket, and caches of at least a byte, got ", numbers);
  for (Isa known : kIsas) {
    if (isa != isa_name(known)) continue;
    return {known,      static_cast<int>(numbers[0]), true, numbers[2], numbers[3],
            numbers[4], static_cast<int>(numbers[1])};
  }
  TORCH_CHECK_VALUE(false, "isa: expected generic, avx2 or avx512, got '", isa, "'");
}

std::vector<ExplainedPass> explain_layer(std::string_view cell, at::ScalarType dtype,
                                         int64_t seq_len, int64_t batch_size, int64_t input_size,
                                         int64_t hidden_size, int64_t proj_size, int64_t directions,
                                         bool training, std::optional<at::ScalarType> weight_dtype,
                                         at::OptionalIntArrayRef machine, std::string_view isa) {
  Problem problem = check_problem(cell, dtype, seq_len, batch_size, input_size, hidden_size,
                                  proj_size, directions, training, /*packed=*/false);
  if (weight_dtype.has_value()) problem.format = check_format("weight_dtype", *weight_dtype);
  const CpuInfo cpu = machine.has_value() ? described_machine(*machine, isa) : this_machine();
  std::vector<ExplainedPass> passes;
  for (Pass pass : {Pass::kForward, Pass::kBackward}) {
    if (pass == Pass::kBackward && !training) continue;
    const Plan plan = make_checked_plan(problem, pass, cpu);
    std::string text(4096, '\0');
    text.resize(print_plan(problem, pass, cpu, plan, text.data(), text.size()));
    passes.push_back(explain_pass(pass, plan, text));
  }
  return passes;
}

std::vector<int64_t> describe_cpu() {
  const CpuInfo cpu = this_machine();
  return {cpu.num_threads, cpu.socket_cores, cpu.l1_bytes, cpu.l2_bytes, cpu.l3_bytes};
}

}  // namespace

Problem check_problem(std::string_view cell, at::ScalarType dtype, int64_t seq_len,
                      int64_t batch_size, int64_t input_size, int64_t hidden_size,
                      int64_t proj_size, int64_t directions, bool training, bool packed) {
  TORCH_CHECK_VALUE(seq_len > 0 && batch_size >= 0 && input_size >= 0 && hidden_size > 0 &&
                        proj_size >= 0 && (directions == 1 || directions == 2),
                    "explain_layer: expected seq_len and hidden_size > 0, no negative size and 1 "
                    "or 2 directions");
  check_buffers(seq_len, batch_size, input_size, std::max(hidden_size, proj_size));
  return {check_cell(cell).kind,
          check_dtype("dtype", dtype),
          seq_len,
          batch_size,
          seq_len * batch_size,
          input_size,
          hidden_size,
          proj_size,
          static_cast<int>(directions),
          training,
          packed,
          WeightFormat::kSame,
          chosen_chunk_bytes()};
}

// torch's own products go by float32Precision. Context::allowTF32CuBLAS() raises where allow_tf32
// and fp32_precision were both set and disagree. NVIDIA's libraries never round to TF32 where their
// own variable says so, whatever torch asks for.
bool allows_tf32() {
  if (settings().nvidia_tf32_override == "0") return false;
  return at::globalContext().float32Precision(at::Float32Backend::CUDA, at::Float32Op::MATMUL) ==
         at::Float32Precision::TF32;
}

void check_status(const Status& status) { TORCH_CHECK(status.ok, status.message); }

CpuPlan make_cpu_plan(const Problem& problem, Pass pass) {
  const CpuInfo cpu = this_machine();
  return {cpu.isa, make_checked_plan(problem, pass, cpu)};
}

ExplainedPass explain_pass(Pass pass, const Choice& choice, std::string_view text) {
  std::vector<Fact> facts;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const size_t colon = line.find(": ");
    TORCH_INTERNAL_ASSERT(colon != line.npos, "no fact: ", line);
    facts.emplace_back(line.substr(0, colon), line.substr(colon + 2));
  }
  return {pass == Pass::kForward ? "forward" : "backward", choice.name, choice.modelled_seconds,
          std::move(facts)};
}

TORCH_LIBRARY_IMPL(fusedrnn, CompositeExplicitAutograd, m) {
  m.impl("explain_layer", TORCH_FN(explain_layer));
  m.impl("describe_cpu", describe_cpu);
  m.impl("allows_tf32", allows_tf32);
  m.impl("cpu_isa", [] { return std::string(isa_name(current_isa())); });
  m.impl("last_cpu_isa", [] { return std::string(isa_name(last_isa())); });
  m.impl("built_cpu_isas", [] { return isa_names(isa_built); });
  m.impl("supported_cpu_isas", [] { return isa_names(isa_supported); });
}

}  // namespace fusedrnn
