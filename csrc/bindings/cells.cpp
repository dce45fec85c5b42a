// What the registry says of each cell, and the mathematics of its gates, for callers without C++.
#include <torch/library.h>

#include <string>
#include <tuple>
#include <vector>

#include "bindings/checks.h"
#include "bindings/composite.h"
#include "cells/registry.h"

namespace fusedrnn {
namespace {

std::vector<std::string> cell_names() {
  std::vector<std::string> names;
  for (const CellInfo& cell : kCells) names.emplace_back(cell.name);
  return names;
}

using Names = std::vector<std::string>;

std::tuple<Names, Names, int64_t, int64_t, bool> describe_cell(std::string_view name) {
  const CellInfo& cell = check_cell(name);
  return {Names(cell.gate_names, cell.gate_names + cell.gates),
          Names(cell.param_names, cell.param_names + cell.params), cell.states, cell.saved_width(),
          cell.projects};
}

}  // namespace

TORCH_LIBRARY_IMPL(fusedrnn, CompositeExplicitAutograd, m) {
  m.impl("cell_names", cell_names);
  m.impl("describe_cell", TORCH_FN(describe_cell));
}

TORCH_LIBRARY_IMPL(fusedrnn, CompositeImplicitAutograd, m) {
  m.impl("activate_gates", TORCH_FN(activate_gates));
}

// vmap does not take compositions by itself.
TORCH_LIBRARY_IMPL(fusedrnn, FuncTorchBatched, m) {
  m.impl("activate_gates", TORCH_FN(activate_gates));
}

}  // namespace fusedrnn
