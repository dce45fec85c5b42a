// The CPU plan of a layer as the environment and torch's settings have it now, and what the
// operators that explain plans share.
#pragma once

#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "bindings/checks.h"
#include "cpu/cpu_library.h"

namespace fusedrnn {

struct CpuPlan {
  Isa isa;
  Plan plan;
};

// Honours FUSEDRNN_CPU_ISA and FUSEDRNN_SCHEDULE; raises when they ask for what cannot be.
CpuPlan make_cpu_plan(const Problem& problem, Pass pass);

// A plan for Python: the pass, the schedule's name, its modelled seconds, and every fact of the
// plan's text as its name and what is said of it.
using Fact = std::tuple<std::string, std::string>;
using ExplainedPass = std::tuple<std::string, std::string, double, std::vector<Fact>>;
ExplainedPass explain_pass(Pass pass, const Choice& choice, std::string_view text);

// The problem that explain_layer is asked about; raises when its numbers make no sense.
Problem check_problem(std::string_view cell, at::ScalarType dtype, int64_t seq_len,
                      int64_t batch_size, int64_t input_size, int64_t hidden_size,
                      int64_t proj_size, int64_t directions, bool training, bool packed);

// Whether products of float32 on CUDA may round what they multiply to TF32, as torch is set now.
bool allows_tf32();

// Raises the status's message unless it is ok.
void check_status(const Status& status);

}  // namespace fusedrnn
