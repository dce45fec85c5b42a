// The kernel tables of this library, by instruction set.
#pragma once

#include "cpu/cpu_kernel_table.h"

namespace fusedrnn {

// The table for a supported ISA; last_isa() returns it from here on.
const KernelTable& use_kernel_table(Isa isa);

}  // namespace fusedrnn
