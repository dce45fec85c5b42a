// The kernels of a cell and storage type.
#include "cuda/cuda_kernel_table.h"

#include "cells/registry.h"

namespace fusedrnn {

namespace {

template <template <class> class Cell>
CudaCellKernels kernels_of(CellTag<Cell>, DType dtype) {
  return visit_dtype(dtype, [](auto storage) { return cell_kernels<Cell, decltype(storage)>(); });
}

}  // namespace

CudaKernels cuda_kernels(CellKind cell, DType dtype) {
  return {visit_cell(cell, [&](auto tag) { return kernels_of(tag, dtype); }), dtype_kernels(dtype)};
}

}  // namespace fusedrnn
