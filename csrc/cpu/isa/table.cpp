// Compiled once for each instruction set, with -DFUSEDRNN_ISA=generic, avx2 or avx512 and the
// compiler's flags for it. Exports that set's kernel table and nothing else: see
// Note [ISA namespace]. For the same reason the headers of isa/ call no inline function of
// the standard library.
#include "cells/registry.h"
#include "cpu/cpu_kernel_table.h"
#include "cpu/isa/matmul.h"
#include "cpu/isa/panel_element.h"
#include "cpu/isa/rows.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

namespace {

template <class S, class List>
struct CellTable;
template <class S, template <class> class... Cell>
struct CellTable<S, CellList<Cell...>> {
  static constexpr const CellKernels* kCells[] = {&CellKernelsOf<Cell, S>::kernels...};
};

template <class S>
constexpr DTypeKernels make_dtype_kernels() {
  return {
      CellTable<S, Cells>::kCells,
      storage_panel_rows<S>(),
      Rows<S>::load,
      Rows<S>::store,
      Rows<S>::sum_columns,
      MatMul<accum_t<S>>::count,
      MatMul<accum_t<S>>::pack,
      MatMul<accum_t<S>>::multiply,
      MatMul<accum_t<S>>::kScratchElements,
      MatMul<accum_t<S>>::kRows,
  };
}

// The instruction set of the compiler's flags, whatever the build calls it.
constexpr Isa compiled_isa() {
#if defined(__AVX512F__)
  return Isa::kAvx512;
#elif defined(__AVX2__)
  return Isa::kAvx2;
#else
  return Isa::kGeneric;
#endif
}

}  // namespace

extern const KernelTable kernel_table;
const KernelTable kernel_table = {
    compiled_isa(),
    compiled_isa() != Isa::kGeneric,
    Pack<float>::kLanes * static_cast<int>(sizeof(float)),
    {make_dtype_kernels<float>(), make_dtype_kernels<double>(), make_dtype_kernels<BFloat16>(),
     make_dtype_kernels<Float16>()},
};

}  // namespace FUSEDRNN_ISA
}  // namespace fusedrnn
