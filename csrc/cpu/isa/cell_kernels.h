// The kernels of one cell and storage type, for isa/cell.cpp.
#pragma once

#include <type_traits>

#include "cpu/cpu_kernel_table.h"
#include "cpu/isa/direct.h"
#include "cpu/isa/per_step.h"
#include "cpu/isa/persistent.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

// The sweep with weights of type W; null where a layer of S has none of that type.
template <template <class> class Cell, class S, class W>
constexpr auto direct_sweep() -> decltype(&Direct<Cell, S, S>::forward_sweep) {
  if constexpr (std::is_same_v<S, W> || std::is_same_v<S, float>) {
    return Direct<Cell, S, W>::forward_sweep;
  } else {
    return nullptr;
  }
}

// Computes h before it is projected, for rows of the saved values.
template <template <class> class Cell, class S>
struct Unprojected {
  using A = accum_t<S>;
  using V = Pack<A>;
  using C = Cell<V>;

  static void rows(const void* saved, void* dst, int64_t row_count, int64_t hidden_size) {
    constexpr int kSavedWidth = ForwardStep<Cell, S>::kSavedWidth;
    const auto* from = static_cast<const S*>(saved);
    auto* to = static_cast<A*>(dst);
    for_each_row_vector<V>(0, row_count, hidden_size, [&](int64_t row, int64_t unit, auto lanes) {
      const S* saved_row = from + row * kSavedWidth * hidden_size + unit;
      const auto load = [&](int k) { return load_lanes<V>(saved_row + k * hidden_size, lanes); };
      Values<V, C::kSaved> unit_saved;
      Values<V, C::kStates> next;
      for (int k = 0; k < C::kSaved; ++k) unit_saved[k] = load(k);
      for (int k = 1; k < C::kStates; ++k) next[k] = load(C::kSaved + k - 1);
      store_lanes(C::hidden(unit_saved, next), to + row * hidden_size + unit, lanes);
    });
  }
};

template <template <class> class Cell, class S>
constexpr auto unprojected() -> decltype(CellKernels::unprojected) {
  if constexpr (Cell<float>::kProjects) {
    return Unprojected<Cell, S>::rows;
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
      unprojected<Cell, S>(),
  };
}

template <template <class> class Cell, class S>
const CellKernels CellKernelsOf<Cell, S>::kernels = make_cell_kernels<Cell, S>();

#define FUSEDRNN_INSTANTIATE_CELL(Cell)          \
  template struct CellKernelsOf<Cell, float>;    \
  template struct CellKernelsOf<Cell, double>;   \
  template struct CellKernelsOf<Cell, BFloat16>; \
  template struct CellKernelsOf<Cell, Float16>;

}  // namespace FUSEDRNN_ISA
}  // namespace fusedrnn
