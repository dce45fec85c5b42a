// What forward and backward of a layer share: sizes, kernels, products, conversions.
#pragma once

#include <new>

#include "cells/registry.h"
#include "common/args.h"
#include "cpu/kernel_table.h"
#include "cpu/parallel.h"
#include "cpu/runtime.h"
#include "cpu/sweep.h"
#include "plan/arithmetic.h"
#include "plan/plan.h"

namespace fusedrnn {

// Rows of the sequence, all of whole steps.
struct RowRange {
  int64_t first;
  int64_t count;
};

// The right operand of a product of whole matrices.
struct Operand {
  Transpose trans;
  int64_t n, k;
  const void* b;  // A, as given
  int64_t ldb;
  void* packed;  // A, or null
};

// A product with an operand: c = or, if `accumulate`, += op(a) * operand, whose b goes with op(a)
// from its k first_k on.
struct Product {
  const Operand* operand;
  int64_t first_k;
  bool accumulate;
  void* c;  // A
  int64_t ldc;
};

class Layer {
 public:
  Layer(const LayerShape& layer_shape, const Plan& layer_plan, const KernelTable& table,
        Runtime& layer_runtime);

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

  // Scratch memory for elements of A, and for any bytes; as long as the runtime.
  void* take(int64_t elements) { return take_bytes(elements * accum_bytes(shape.dtype)); }
  void* take_zeros(int64_t elements);
  void* take_bytes(int64_t bytes) { return runtime.scratch(static_cast<size_t>(bytes)); }

  // src of type S as A: src itself where they are the same, else a converted copy in
  // `copy`, or in new scratch if that is null. Contiguous; null stays null.
  const void* as_accum(const void* src, int64_t rows, int64_t cols, void* copy = nullptr);
  // The rows of sweep steps [begin, end) of src [rows of the sequence, cols] of the caller as A,
  // contiguous: src's own where they lie so, else in `copy`.
  const void* load_steps(const void* src, int64_t begin, int64_t end, int64_t cols, void* copy);
  // The way back, from contiguous rows to dst; or dst += src.
  void store_steps(const void* src, int64_t begin, int64_t end, int64_t cols, bool accumulate,
                   void* dst) const;
  // Whether the rows of the caller are as load_steps gives them.
  bool rows_are_accum() const { return is_accum && steps.order == nullptr; }
  // dst = src as A, contiguous, or zeros if src is null.
  void load_state(const void* src, int64_t rows, int64_t cols, void* dst) const;
  // The same in new scratch.
  void* take_state(const void* src, int64_t rows, int64_t cols);

  // c = op(a) * op(b) + beta * c on A; defined for every size, 0 included.
  void gemm(Transpose trans_a, Transpose trans_b, int64_t m, int64_t n, int64_t k, const void* a,
            int64_t lda, const void* b, int64_t ldb, double beta, void* c, int64_t ldc) const;

  // op(b) [k, n] of a weight for matmul with the rows of a chunk: packed into new scratch, or as it
  // is for the runtime's products.
  Operand take_operand(Transpose trans_b, int64_t n, int64_t k, const void* b, int64_t ldb);
  // An operand for matmul of a transposed a. Before each use set_operand gives it a b with a row
  // for each row of a chunk, or of fewer, and at most so many columns.
  Operand take_rows_operand(int64_t max_cols);
  void set_operand(int64_t n, int64_t k, const void* b, int64_t ldb, Operand* operand) const;
  // At most kMaxProducts products of one op(a) [m, k].
  static constexpr int kMaxProducts = 2;
  void matmul(Transpose trans_a, int64_t m, int64_t k, const void* a, int64_t lda,
              const Product* products, int count) const;

  template <class Body>
  void parallel(int64_t count, int64_t item_work, const Body& body) const {
    parallel_for(runtime, num_threads, count, item_work,
                 [&](int, int64_t begin, int64_t end) { body(begin, end); });
  }

  bool is_persistent() const { return plan.schedule == Schedule::kPersistent; }

  // Scratch memory for the panels of an operand.
  void* take_panels(int64_t n, int64_t k);
  // The packed weight of a product, in `place` if it has room there, else in new scratch; null for
  // a null weight.
  const void* pack(SweepProduct product, const void* weight, void* place = nullptr,
                   int64_t place_bytes = 0);

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

  // Calls body(place, row) for each of them, in parallel: its row in a tensor of the caller, and
  // its row of the sequence.
  template <class Body>
  void for_each_row(int64_t begin, int64_t end, int64_t cols, const Body& body) const {
    const int64_t step_work = chunk_rows(begin, end).count * cols / (end - begin);
    parallel(end - begin, step_work, [&](int64_t first, int64_t last) {
      for (int64_t s = begin + first; s < begin + last; ++s) {
        for (int64_t row = 0; row < steps.rows(s); ++row) {
          body(steps.place(s, row), steps.row(s) + row);
        }
      }
    });
  }

  const LayerShape& shape;
  const Plan& plan;
  bool has_matmul;
  const CellInfo& cell;
  const DTypeKernels& rows;
  const CellKernels& kernels;
  Runtime& runtime;
  SweepSteps steps;
  DType accum_dtype;
  bool is_accum;  // S is A
  int num_threads;
  int64_t gate_size;    // G * H
  int64_t hidden_size;  // H
  int64_t output_size;  // P
  int64_t chunk_steps;
  int64_t chunk_max_rows;
  PanelElement panel_element;      // of packed weights
  void* matmul_scratch = nullptr;  // A, of a transposed a, a piece for each thread
  TeamSlot* team = nullptr;        // persistent: [num_threads]
};

}  // namespace fusedrnn
