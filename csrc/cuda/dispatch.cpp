// The kernels of a cell and storage type.
#include "cuda/kernel_table.h"

namespace fusedrnn {

namespace {

CudaCellKernels cell_kernels(CellKind cell, DType dtype) {
  switch (cell) {
    case CellKind::kRnnTanh:
      return rnn_tanh_kernels(dtype);
    case CellKind::kRnnRelu:
      return rnn_relu_kernels(dtype);
    case CellKind::kGru:
      return gru_kernels(dtype);
    case CellKind::kLstm:
      break;
  }
  return lstm_kernels(dtype);
}

}  // namespace

CudaKernels cuda_kernels(CellKind cell, DType dtype) {
  return {cell_kernels(cell, dtype), row_kernels(dtype)};
}

}  // namespace fusedrnn
