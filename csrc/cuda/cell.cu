// Compiled once for each header of cells, with FUSEDRNN_CELL_HEADER "cells/gru.h": the kernels of
// that header's cells.
#include "cuda/schedules/launchers.cuh"

#undef FUSEDRNN_CELL
#define FUSEDRNN_CELL(Cell) template CudaCellKernels cell_kernels<Cell>(DType dtype);
#include FUSEDRNN_CELL_HEADER
