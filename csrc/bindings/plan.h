// The CPU plan of a layer as the environment and torch's settings have it now.
#pragma once

#include "bindings/checks.h"
#include "cpu/kernels.h"

namespace fusedrnn {

struct CpuPlan {
  Isa isa;
  CpuInfo cpu;
  Plan plan;
};

// Honours FUSEDRNN_CPU_ISA and FUSEDRNN_SCHEDULE; raises when they ask for what cannot be.
CpuPlan make_cpu_plan(const Problem& problem);

// Raises the status's message unless it is ok.
void check_status(const Status& status);

}  // namespace fusedrnn
