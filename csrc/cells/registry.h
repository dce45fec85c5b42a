// Every cell, once. To add a cell: write its header, include it here, and put it into the list.
#pragma once

#include <cstring>
#include <type_traits>

#include "cells/gru.h"
#include "cells/lstm.h"
#include "cells/peephole_lstm.h"
#include "cells/rnn.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

template <template <class> class... Cell>
struct CellList {};

using Cells = CellList<RnnTanh, RnnRelu, Lstm, Gru, PeepholeLstm>;

// A cell's constants where the struct's type is not at hand.
struct CellInfo {
  CellKind kind;
  const char* name;
  int gates;
  const char* const* gate_names;  // [gates]
  int states;
  int saved;
  int params;
  const char* const* param_names;  // [params]
  int activations;
  bool split;
  bool projects;

  // Values a unit keeps per row for backward: what the cell saves, then the states after h.
  constexpr int saved_width() const { return saved + states - 1; }
};

template <template <class> class Cell>
constexpr CellInfo make_cell_info(int idx) {
  using C = Cell<float>;
  static_assert(C::kStates == 1 || C::kStates == 2, "schedules hand on h, or h and c");
  static_assert(!C::kProjects || !C::kReadsPrevH, "projected h has another width than a unit's");
  static_assert(C::kNeeds == CellNeeds::kNothing,
                "no schedule provides statistics of a row, or a mask");
  const char* const* param_names = nullptr;
  if constexpr (C::kParams > 0) param_names = C::kParamNames;
  return {static_cast<CellKind>(idx),
          C::kName,
          C::kGates,
          C::kGateNames,
          C::kStates,
          C::kSaved,
          C::kParams,
          param_names,
          C::kActivations,
          C::kSplit,
          C::kProjects};
}

template <int kCount>
struct CellInfos {
  CellInfo of[kCount];
};

template <template <class> class... Cell>
constexpr CellInfos<sizeof...(Cell)> make_cell_infos(CellList<Cell...>) {
  int idx = 0;
  return {{make_cell_info<Cell>(idx++)...}};
}

// The constants of every cell, by CellKind.
inline constexpr auto kCellInfos = make_cell_infos(Cells());
inline constexpr auto& kCells = kCellInfos.of;
constexpr int kCellCount = sizeof(kCells) / sizeof(kCells[0]);

template <template <class> class Wanted, template <class> class First,
          template <class> class... Others>
constexpr int find_idx(CellList<First, Others...>) {
  if constexpr (std::is_same_v<Wanted<float>, First<float>>) {
    return 0;
  } else {
    return 1 + find_idx<Wanted>(CellList<Others...>());
  }
}
template <template <class> class Cell>
constexpr CellKind kind_of = static_cast<CellKind>(find_idx<Cell>(Cells()));

constexpr const CellInfo& cell_info(CellKind kind) { return kCells[static_cast<int>(kind)]; }

// The cell of that name, or null.
inline const CellInfo* find_cell(const char* name) {
  for (const CellInfo& info : kCells) {
    if (std::strcmp(info.name, name) == 0) return &info;
  }
  return nullptr;
}

// Names a cell template as a type, so that it can be passed to a generic function.
template <template <class> class Cell>
struct CellTag {
  template <class V>
  using type = Cell<V>;
};

template <class Body, template <class> class First, template <class> class... Others>
auto visit_cell_at(int idx, Body&& body, CellList<First, Others...>) {
  if constexpr (sizeof...(Others) > 0) {
    if (idx > 0) return visit_cell_at(idx - 1, body, CellList<Others...>());
  }
  return body(CellTag<First>{});
}

// Calls body(CellTag<Cell>{}) for the cell of that kind.
template <class Body>
auto visit_cell(CellKind kind, Body&& body) {
  return visit_cell_at(static_cast<int>(kind), body, Cells());
}

}  // namespace FUSEDRNN_ISA
}  // namespace fusedrnn
