// The device a plan is made for: plain numbers, filled in by cpu/instruction_sets.cpp and
// cuda/query.cu for the running machine and by the tests for machines that are not at hand.
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
  int64_t l3_bytes;         // shared by the cores of a socket, or of a part of one
  int socket_cores = 0;  // of one of several sockets, on which as many threads are; 0: one socket
};

struct CudaInfo {
  char name[64];
  int sm_arch;  // 90 for compute capability 9.0
  int sm_count;
  int64_t smem_bytes_per_block;  // the most that a kernel can ask for (opt-in)
  int64_t smem_bytes_per_sm;
  int64_t l2_bytes;
  double clock_ghz;                // of the SMs, boost; 0 where the device does not tell
  double memory_bytes_per_second;  // 0 likewise
  bool allow_tf32;                 // float32 products may round their inputs, as torch is set now
  int registers_per_sm;
  int max_cluster;    // blocks of a cluster, 1 where there are none
  bool cooperative;   // blocks of a launch may wait for each other
  bool programmatic;  // a kernel may begin before the one before has ended, and ours wait for it
};

}  // namespace fusedrnn
