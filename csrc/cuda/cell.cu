// Compiled once for each header of cells and each storage type, with FUSEDRNN_CELL_HEADER
// "cells/gru.h" and FUSEDRNN_STORAGE float: the kernels of that header's cells.
#include "cuda/schedules/launchers.cuh"

#undef FUSEDRNN_CELL
#define FUSEDRNN_CELL(Cell) template CudaCellKernels cell_kernels<Cell, FUSEDRNN_STORAGE>();
#include FUSEDRNN_CELL_HEADER
