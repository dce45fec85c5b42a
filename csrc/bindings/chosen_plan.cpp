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

std::vector<std::string> isa_names(bool (*condition)(Isa)) {
  std::vector<std::string> names;
  for (Isa isa : kIsas) {
    if (condition(isa)) names.emplace_back(isa_name(isa));
  }
  return names;
}

std::string explain_layer(std::string_view cell, at::ScalarType dtype, int64_t seq_len,
                          int64_t batch_size, int64_t input_size, int64_t hidden_size,
                          int64_t proj_size, int64_t directions, bool training,
                          std::optional<at::ScalarType> weight_dtype) {
  Problem problem = check_problem(cell, dtype, seq_len, batch_size, input_size, hidden_size,
                                  proj_size, directions, training, /*packed=*/false);
  if (weight_dtype.has_value()) problem.format = check_format("weight_dtype", *weight_dtype);
  const CpuPlan chosen = make_cpu_plan(problem);
  std::string text(4096, '\0');
  text.resize(print_plan(problem, chosen.cpu, chosen.plan, text.data(), text.size()));
  return text;
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
          /*runs_forward=*/true,
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

CpuPlan make_cpu_plan(const Problem& problem) {
  CpuPlan chosen;
  chosen.isa = current_isa();
  chosen.cpu = query_cpu(chosen.isa, available_threads(), concurrent_threads());
  check_status(make_plan(problem, chosen.cpu, settings().schedule.c_str(), &chosen.plan));
  return chosen;
}

TORCH_LIBRARY_IMPL(fusedrnn, CompositeExplicitAutograd, m) {
  m.impl("explain_layer", TORCH_FN(explain_layer));
  m.impl("allows_tf32", allows_tf32);
  m.impl("cpu_isa", [] { return std::string(isa_name(current_isa())); });
  m.impl("last_cpu_isa", [] { return std::string(isa_name(last_isa())); });
  m.impl("built_cpu_isas", [] { return isa_names(isa_built); });
  m.impl("supported_cpu_isas", [] { return isa_names(isa_supported); });
}

}  // namespace fusedrnn
