// Entry points of the CPU library: the only header of cpu/ that the bindings include besides
// cpu_layer_runtime.h.
#pragma once

#include "common/args.h"
#include "common/status.h"
#include "cpu/cpu_layer_runtime.h"
#include "plan/cpu_plan.h"

namespace fusedrnn {

// They run one layer in one direction over a whole sequence. Arguments are trusted:
// bindings/checks.h has checked them. B = 0 and N = 0 are allowed. `isa` must be one that
// select_isa returned. `forward_plan` is that of the forward pass, which runs again under
// recompute.
Status layer_forward_cpu(const LayerForwardArgs& args, const Plan& plan, Isa isa,
                         CpuRuntime& runtime);
Status layer_backward_cpu(const LayerBackwardArgs& args, const Plan& plan, const Plan& forward_plan,
                          Isa isa, CpuRuntime& runtime);

const char* isa_name(Isa isa);  // "generic", "avx2", "avx512"
bool isa_built(Isa isa);        // compiled into this library
bool isa_supported(Isa isa);    // built, and the running machine has it
// The best supported ISA, or the one named by `forced` (null or empty: none is forced);
// an unknown name, or one this machine or build lacks, is an error that lists the choices.
Status select_isa(const char* forced, Isa* isa);
// The ISA whose kernels the calling thread ran last; what the tests read back.
Isa last_isa();

// Whether the running machine's processor is Intel's.
bool has_intel_cpu();

// Caches and sockets of the running machine and the given ISA and threads.
CpuInfo query_cpu(Isa isa, int num_threads, bool concurrent_threads);

}  // namespace fusedrnn
