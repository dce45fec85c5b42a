// Compiled once for each instruction set, with -DFUSEDRNN_ISA=generic, avx2 or avx512 and the
// compiler's flags for it. Exports that set's kernel table and nothing else: see
// Note [ISA namespace]. For the same reason the headers of isa/ call no inline function of
// the standard library.
#include <type_traits>

#include "cpu/isa/direct.h"
#include "cpu/isa/matmul.h"
#include "cpu/isa/per_step.h"
#include "cpu/isa/persistent.h"
#include "cpu/isa/rows.h"
#include "cpu/kernel_table.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {
namespace {

// With weights of type W; null where S has none of that type.
template <template <class> class Cell, class S, class W>
constexpr auto direct_sweep() -> decltype(&Direct<Cell, S, S>::forward_sweep) {
  if constexpr (std::is_same_v<S, W> || std::is_same_v<S, float>) {
    return Direct<Cell, S, W>::forward_sweep;
  } else {
    return nullptr;
  }
}

template <template <class> class Cell, class S>
constexpr CellKernels make_cell_kernels() {
  return {
      PerStep<Cell, S>::forward_cell,
      PerStep<Cell, S>::forward_project,
      PerStep<Cell, S>::backward_hidden,
      PerStep<Cell, S>::backward_cell,
      PackWeights<Cell, S>::count,
      PackWeights<Cell, S>::pack,
      Persistent<Cell, S>::forward_sweep,
      Persistent<Cell, S>::backward_sweep,
      {direct_sweep<Cell, S, S>(), direct_sweep<Cell, S, BFloat16>(),
       direct_sweep<Cell, S, Float16>(), direct_sweep<Cell, S, int8_t>()},
  };
}

template <class S>
constexpr DTypeKernels make_dtype_kernels() {
  return {
      {make_cell_kernels<RnnTanh, S>(), make_cell_kernels<RnnRelu, S>(),
       make_cell_kernels<Lstm, S>(), make_cell_kernels<Gru, S>()},
      storage_panel_rows<S>(),
      Rows<S>::load,
      Rows<S>::store,
      Rows<S>::column_sums,
      MatMul<accum_t<S>>::count,
      MatMul<accum_t<S>>::pack,
      MatMul<accum_t<S>>::multiply,
      MatMul<accum_t<S>>::kScratchElements,
      Rows<S>::lstm_output,
  };
}

// What the compiler's flags say, not what the build calls it.
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
