// Schedule per_step: the pointwise part of a step, after the driver's matrix product.
#pragma once

#include "cpu/isa/step.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

// Calls body(row, unit, lanes) for the vectors of V of each of the rows [row_begin, row_end).
template <class V, class Body>
FUSEDRNN_HD void for_each_row_vector(int64_t row_begin, int64_t row_end, int64_t units,
                                     const Body& body) {
  for (int64_t row = row_begin; row < row_end; ++row) {
    for_each_vector<V>(0, units, [&](int64_t unit, auto lanes) { body(row, unit, lanes); });
  }
}

template <template <class> class Cell, class S>
struct PerStep {
  using A = accum_t<S>;
  using V = Pack<A>;
  static constexpr int kGates = Cell<V>::kGates;

  static void forward_cell(const ForwardSweep& sweep, int64_t s, int64_t row_begin,
                           int64_t row_end) {
    const ForwardStep<Cell, S> step(sweep, s);
    const int64_t units = sweep.args->shape.hidden_size;
    const auto* product = static_cast<const A*>(sweep.product);
    for_each_row_vector<V>(row_begin, row_end, units, [&](int64_t row, int64_t unit, auto lanes) {
      V gates[kGates];
      for (int gate = 0; gate < kGates; ++gate) {
        gates[gate] = load_lanes_or_zero<V>(
            offset_or_null(product, (row * kGates + gate) * units + unit), lanes);
      }
      step.cell(row, unit, lanes, {}, {gates, 1, 0});
    });
  }

  static void forward_project(const ForwardSweep& sweep, int64_t s, int64_t row_begin,
                              int64_t row_end) {
    const ForwardStep<Cell, S> step(sweep, s);
    const int64_t units = sweep.args->shape.proj_size;
    const auto* projected = static_cast<const A*>(sweep.projected);
    for_each_row_vector<V>(row_begin, row_end, units, [&](int64_t row, int64_t unit, auto lanes) {
      step.hidden(row, unit, lanes, load_lanes<V>(projected + row * units + unit, lanes));
    });
  }

  static void backward_hidden(const BackwardSweep& sweep, int64_t s, int64_t row_begin,
                              int64_t row_end) {
    const BackwardStep<Cell, S> step(sweep, s);
    const int64_t units = step.output_size;
    const int64_t product_rows = sweep.steps.rows(s + 1);
    const auto* product = static_cast<const A*>(sweep.product);
    for_each_row_vector<V>(row_begin, row_end, units, [&](int64_t row, int64_t unit, auto lanes) {
      step.hidden(
          row, unit, lanes,
          row < product_rows ? load_lanes<V>(product + row * units + unit, lanes) : V(0.0f));
    });
  }

  static void backward_cell(const BackwardSweep& sweep, int64_t s, int64_t row_begin,
                            int64_t row_end) {
    const BackwardStep<Cell, S> step(sweep, s);
    const int64_t units = sweep.args->shape.hidden_size;
    const auto* projected = static_cast<const A*>(sweep.projected);
    for_each_row_vector<V>(row_begin, row_end, units, [&](int64_t row, int64_t unit, auto lanes) {
      step.cell(row, unit, lanes, load_lanes<V>(projected + row * units + unit, lanes));
    });
  }
};

}  // namespace FUSEDRNN_ISA
}  // namespace fusedrnn
