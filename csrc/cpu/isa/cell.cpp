// Compiled once for each instruction set and header of cells, with -DFUSEDRNN_ISA as table.cpp and
// -DFUSEDRNN_CELL_HEADER="cells/gru.h": the kernels of that header's cells.
#include "cpu/isa/cell_kernels.h"

#undef FUSEDRNN_CELL
#define FUSEDRNN_CELL(Cell) FUSEDRNN_INSTANTIATE_CELL(Cell)
#include FUSEDRNN_CELL_HEADER
