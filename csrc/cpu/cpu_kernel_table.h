// The functions that isa/table.cpp and, for each cell, isa/cell.cpp provide, once for each
// instruction set.
#pragma once

#include <cstdint>

#include "common/types.h"
#include "cpu/cpu_layer_runtime.h"
#include "cpu/sweep.h"

namespace fusedrnn {

// Size of a packed weight.
struct PanelCount {
  int64_t panels;
  int64_t panel_elements;
};

// One of the right operands of a product and what it makes: c = op(a) * b, or c += op(a) * b, on A,
// c [rows, n] row-major. The packed b [k, n] goes with k of op(a) from first_k on.
struct MatMulRight {
  int64_t n, k;
  int64_t first_k;
  const void* packed_b;
  bool accumulate;
  void* c;
  int64_t ldc;
};

// Products of one op(a) [rows, k]. Strides are in elements.
struct MatMulArgs {
  Transpose trans_a;
  int64_t k;
  const void* a;
  int64_t lda;
  const MatMulRight* rights;
  int right_count;
};

// Kernels of one cell and storage type.
struct CellKernels {
  // per_step: the pointwise part of sweep step s for rows [row_begin, row_end) of the batch,
  // after the matrix product that fills `product` or `projected` of the sweep.
  void (*forward_cell)(const ForwardSweep& sweep, int64_t s, int64_t row_begin, int64_t row_end);
  void (*forward_project)(const ForwardSweep& sweep, int64_t s, int64_t row_begin, int64_t row_end);
  // The gradient of h, also of rows that leave at step s; without projection, the cell as well.
  void (*backward_hidden)(const BackwardSweep& sweep, int64_t s, int64_t row_begin,
                          int64_t row_end);
  void (*backward_cell)(const BackwardSweep& sweep, int64_t s, int64_t row_begin, int64_t row_end);

  // persistent: packs panels [panel_begin, panel_end) of the weight of a product, then what
  // each thread of the region does for the sweep's chunk.
  PanelCount (*count_panels)(SweepProduct product, const LayerShape& shape);
  void (*pack_panels)(SweepProduct product, const LayerShape& shape, PanelElement element,
                      const void* weight, int64_t panel_begin, int64_t panel_end, void* packed);
  void (*forward_sweep)(const ForwardSweep& sweep, int thread_idx, int num_threads);
  void (*backward_sweep)(const BackwardSweep& sweep, int thread_idx, int num_threads);
  // forward_sweep on the weights as they lie, by WeightFormat; only of float all are there.
  void (*direct_sweeps[4])(const ForwardSweep& sweep, int thread_idx, int num_threads);

  // h before its projection, from what forward saved, S [rows, saved_width, H] to A [rows, H]; null
  // for cells that cannot be projected.
  void (*unprojected)(const void* saved, void* dst, int64_t rows, int64_t hidden_size);
};

inline namespace FUSEDRNN_ISA {
// The kernels of each instruction set, cell and storage type; isa/cell.cpp defines them.
template <template <class> class Cell, class S>
struct CellKernelsOf {
  static const CellKernels kernels;
};
}  // namespace FUSEDRNN_ISA

// Kernels of one storage type S with accumulation type A. Row strides are in elements.
struct DTypeKernels {
  const CellKernels* const* cells;  // by CellKind
  int64_t storage_panel_rows;       // the most rows a step for which panels of S are worth it
  // dst = src, [rows, cols] each; row i is row order[i] of src, unless order is null.
  void (*load_rows)(const void* src, int64_t src_stride, const int64_t* order, void* dst,
                    int64_t dst_stride, int64_t rows, int64_t cols);  // S to A
  void (*store_rows)(const void* src, int64_t src_stride, void* dst, int64_t dst_stride,
                     int64_t rows, int64_t cols, bool accumulate);  // A to S; or dst += src
  // sums[col] += the sum over rows of src[row, col], for columns [col_begin, col_end) of A.
  void (*sum_columns)(const void* src, int64_t src_stride, int64_t rows, int64_t col_begin,
                      int64_t col_end, void* sums);
  // Products of whole matrices: the size of packed op(b) [k, n], packing of some of its panels,
  // and some rows and panels of c, where panels count on from one right operand to the next. A
  // transposed a needs scratch for each thread.
  PanelCount (*count_matmul_panels)(int64_t n, int64_t k);
  void (*pack_matmul_panels)(Transpose trans_b, int64_t n, int64_t k, const void* b, int64_t ldb,
                             int64_t panel_begin, int64_t panel_end, void* packed);
  void (*matmul)(const MatMulArgs& args, int64_t row_begin, int64_t row_end, int64_t panel_begin,
                 int64_t panel_end, void* scratch);
  int64_t matmul_scratch_elements;  // A
  int64_t matmul_tile_rows;         // a last tile of fewer may add in another order
};

struct KernelTable {
  Isa isa;
  bool has_matmul;  // worth using in place of the runtime's products
  int vector_bytes;
  DTypeKernels dtypes[4];  // by DType
};

}  // namespace fusedrnn
