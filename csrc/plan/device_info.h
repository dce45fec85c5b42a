// The device a plan is made for: plain numbers, filled in by cpu/dispatch.cpp for the
// running machine and by the tests for machines that are not at hand.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace fusedrnn {

struct CpuInfo {
  Isa isa;                  // the kernel table that will run
  int num_threads;          // threads a parallel region is given
  bool concurrent_threads;  // threads of a region all run at the same time: barriers work
  int64_t l1_bytes;         // data cache of a core
  int64_t l2_bytes;         // of a core
  int64_t l3_bytes;         // shared
};

}  // namespace fusedrnn
