// The environment variables that the library obeys, one of them NVIDIA's. They are read once, when
// it is loaded: getenv in a call would read what another thread may be changing.
#pragma once

#include <cstdint>
#include <string>

namespace fusedrnn {

// The values as they were given; empty where there is none.
struct Settings {
  std::string cpu_isa;               // FUSEDRNN_CPU_ISA
  std::string schedule;              // FUSEDRNN_SCHEDULE
  std::string cuda_graph;            // FUSEDRNN_CUDA_GRAPH
  std::string cuda_selftest;         // FUSEDRNN_CUDA_SELFTEST
  std::string debug;                 // FUSEDRNN_DEBUG
  std::string nvidia_tf32_override;  // NVIDIA_TF32_OVERRIDE
  std::string chunk_bytes;           // FUSEDRNN_CHUNK_BYTES
};

// The settings of the next call; the reference is valid for ever.
const Settings& settings();

// FUSEDRNN_CHUNK_BYTES as a number, 0 without one; raises when it is none.
int64_t chosen_chunk_bytes();

}  // namespace fusedrnn
