// What forward and backward of a layer share: sizes, kernels, memory, threads, rows of chunks.
#pragma once

#include <new>

#include "cells/registry.h"
#include "common/args.h"
#include "common/steps.h"
#include "cpu/cpu_kernel_table.h"
#include "cpu/cpu_layer_runtime.h"
#include "cpu/parallel.h"
#include "cpu/sweep.h"
#include "plan/arithmetic.h"
#include "plan/cpu_plan.h"

namespace fusedrnn {

class CpuLayer {
 public:
  CpuLayer(const LayerShape& layer_shape, const Plan& layer_plan, const KernelTable& table,
           CpuRuntime& layer_runtime);

  // Elements of S and of A, from a base pointer and an offset in elements.
  const void* storage(const void* base, int64_t offset) const {
    return static_cast<const char*>(base) + offset * dtype_bytes(shape.dtype);
  }
  void* storage(void* base, int64_t offset) const {
    return static_cast<char*>(base) + offset * dtype_bytes(shape.dtype);
  }
  void* accum(void* base, int64_t offset) const {
    return static_cast<char*>(base) + offset * accum_bytes(shape.dtype);
  }
  const void* accum(const void* base, int64_t offset) const {
    return static_cast<const char*>(base) + offset * accum_bytes(shape.dtype);
  }

  // Scratch memory for elements of A, and for any bytes; it lives as long as the runtime.
  void* allocate(int64_t elements) { return allocate_bytes(elements * accum_bytes(shape.dtype)); }
  void* allocate_zeros(int64_t elements);
  void* allocate_bytes(int64_t bytes) { return runtime.allocate(static_cast<size_t>(bytes)); }

  template <class Body>
  void parallel(int64_t count, int64_t item_work, const Body& body) const {
    parallel_for(runtime, num_threads, count, item_work,
                 [&](int, int64_t begin, int64_t end) { body(begin, end); });
  }

  bool is_persistent() const { return plan.schedule == Schedule::kPersistent; }

  // How the threads share the steps [begin, end): by rows only if there are enough of them.
  Split split_of(int64_t begin, int64_t end) const {
    const bool has_few = chunk_rows(begin, end).count < plan.min_split_rows * (end - begin);
    return has_few ? Split::kUnits : plan.split;
  }
  // Runs one of the sweep kernels of the table on all threads.
  template <class Sweep>
  void run_region(void (*kernel)(const Sweep&, int, int), Sweep* sweep_ptr) const {
    Sweep& sweep = *sweep_ptr;
    sweep.team = team;
    sweep.split = split_of(sweep.begin, sweep.end);
    sweep.panel_element = panel_element;
    for (int i = 0; i < num_threads; ++i) new (&team[i]) TeamSlot{};
    auto body = [&](int thread_idx, int count) { kernel(sweep, thread_idx, count); };
    runtime.parallel(num_threads, body);
  }

  // Steps from one kept state to the next under recompute: whole chunks, so that all products have
  // the sizes that they have without.
  int64_t recompute_steps() const { return ceil_div(shape.recompute, chunk_steps) * chunk_steps; }

  // Rows of the sweep steps [begin, end).
  RowRange chunk_rows(int64_t begin, int64_t end) const;

  // Calls body(s) for the sweep steps [begin, end), in parallel, given the columns of a row.
  template <class Body>
  void for_each_step(int64_t begin, int64_t end, int64_t cols, const Body& body) const {
    const int64_t step_work = chunk_rows(begin, end).count * cols / (end - begin);
    parallel(end - begin, step_work, [&](int64_t first, int64_t last) {
      for (int64_t s = begin + first; s < begin + last; ++s) body(s);
    });
  }

  const LayerShape& shape;
  const Plan& plan;
  const CellInfo& cell;
  const DTypeKernels& dtype_kernels;
  const CellKernels& cell_kernels;
  CpuRuntime& runtime;
  SweepSteps steps;
  DType accum_dtype;
  bool is_accum;  // S is A
  int num_threads;
  int64_t gate_size;    // G * H
  int64_t hidden_size;  // H
  int64_t output_size;  // P
  int64_t chunk_steps;
  int64_t chunk_max_rows;
  PanelElement panel_element;  // of packed weights
  TeamSlot* team = nullptr;    // persistent: [num_threads]
};

}  // namespace fusedrnn
