// Every cell, once: its kind, its name in operator schemas, and its struct.
// To add a cell: write its header, add an enumerator, one CellInfo line and one case.
#pragma once

#include <cstring>

#include "cells/gru.h"
#include "cells/lstm.h"
#include "cells/rnn.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

// A cell's constants where the struct's type is not at hand.
struct CellInfo {
  CellKind kind;
  const char* name;
  int gates;
  int states;
  int saved;
  bool split;
  bool row_stats;

  // Values a unit keeps per row for backward: what the cell saves, then the states after h.
  constexpr int saved_width() const { return saved + states - 1; }
};

template <template <class> class Cell>
constexpr CellInfo make_cell_info(CellKind kind, const char* name) {
  using C = Cell<float>;
  return {kind, name, C::kGates, C::kStates, C::kSaved, C::kSplit, C::kRowStats};
}

constexpr CellInfo kCells[] = {
    make_cell_info<RnnTanh>(CellKind::kRnnTanh, "rnn_tanh"),
    make_cell_info<RnnRelu>(CellKind::kRnnRelu, "rnn_relu"),
    make_cell_info<Lstm>(CellKind::kLstm, "lstm"),
    make_cell_info<Gru>(CellKind::kGru, "gru"),
};
constexpr int kCellCount = sizeof(kCells) / sizeof(kCells[0]);

// kCells is ordered by kind.
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

// Calls body(CellTag<Cell>{}) for the cell of that kind.
template <class Body>
auto visit_cell(CellKind kind, Body&& body) {
  switch (kind) {
    case CellKind::kRnnTanh:
      return body(CellTag<RnnTanh>{});
    case CellKind::kRnnRelu:
      return body(CellTag<RnnRelu>{});
    case CellKind::kGru:
      return body(CellTag<Gru>{});
    case CellKind::kLstm:
      break;
  }
  return body(CellTag<Lstm>{});
}

}  // namespace FUSEDRNN_ISA
}  // namespace fusedrnn
