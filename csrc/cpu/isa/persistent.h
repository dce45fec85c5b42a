// Schedule persistent: what one thread of the parallel region does for a chunk of steps. The
// recurrent weights are packed; each product ends, block by block, in the functions of step.h.
#pragma once

#include "cpu/isa/pack_weights.h"
#include "cpu/isa/panel.h"
#include "cpu/isa/step.h"
#include "cpu/isa/team.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

template <template <class> class Cell, class S>
struct Persistent {
  using A = accum_t<S>;
  using V = Pack<A>;
  static constexpr int kGates = Cell<V>::kGates;
  static constexpr int kUnitVectors = 2;  // of a panel without gates
  static constexpr int kGateVectors = kGates > 1 ? 1 : kUnitVectors;
  static constexpr int kCols = kGates * kGateVectors;
  // Rows of the cell at once: so many that their values and the constants fit into the registers.
  // With half of AVX-512's, on AVX2, two rows made inference 7 to 15 % slower than one.
  static constexpr int kGroupRows = kVectorBytes < 64      ? 1
                                    : Cell<V>::kStates > 1 ? 2
                                    : kGates > 1           ? 3
                                                           : 4;

  static void forward_sweep(const ForwardSweep& sweep, int thread_idx, int num_threads) {
    const FlushSubnormals flush;
    const LayerShape& shape = sweep.args->shape;
    const PanelLayout gates = make_panel_layout<Cell>(SweepProduct::kGates, shape);
    const PanelLayout inputs = make_panel_layout<Cell>(SweepProduct::kInputs, shape);
    const PanelLayout projected = make_panel_layout<Cell>(SweepProduct::kProjected, shape);
    Team team(sweep, thread_idx, num_threads);
    for (int64_t s = sweep.begin; s < sweep.end; ++s) {
      const ForwardStep<Cell, S> step(sweep, s);
      const bool descending = (s & 1) != 0;
      const OwnRows rows = team.own_rows(sweep.steps.rows(s));
      team.for_each_panel(gates.panel_count<V>(), descending, [&](int64_t panel) {
        const auto prepare = [&](int64_t row) {
          step.prefetch_cell(row, panel * kGateVectors * V::kLanes);
        };
        const int64_t next = next_panel(gates, panel, descending);
        const PanelOperands<A> recurrent{
            step.h_prev, step.h_row_stride,
            panel_ptr(sweep.panel_element, sweep.packed_hh, gates, panel), gates.k_size};
        if (sweep.packed_ih == nullptr) {
          multiply_panel<V, kCols, false, 1, S>(
              sweep.panel_element, rows, {recurrent},
              panel_ptr(sweep.panel_element, sweep.packed_hh, gates, next), prepare,
              [&](int64_t row, int64_t count, const V* sums) {
                finish_cells(step, gates, panel, row, count, nullptr, sums);
              });
          return;
        }
        const PanelOperands<A> input{step.input, inputs.k_size,
                                     panel_ptr(sweep.panel_element, sweep.packed_ih, inputs, panel),
                                     inputs.k_size};
        multiply_panel<V, kCols, Cell<V>::kSplit, 2, S>(
            sweep.panel_element, rows, {input, recurrent},
            panel_ptr(sweep.panel_element, sweep.packed_ih, inputs, next), prepare,
            [&](int64_t row, int64_t count, const V* sums) {
              if constexpr (Cell<V>::kSplit) {
                finish_cells(step, gates, panel, row, count, sums, sums + block_sums(kCols));
              } else {
                finish_cells(step, gates, panel, row, count, nullptr, sums);
              }
            });
      });
      if (step.h_raw == nullptr) continue;
      team.for_each_panel(projected.panel_count<V>(), descending, [&](int64_t panel) {
        multiply_panel<V, kUnitVectors, false, 1, S>(
            sweep.panel_element, rows,
            {{step.h_raw, shape.hidden_size,
              panel_ptr(sweep.panel_element, sweep.packed_hr, projected, panel), projected.k_size}},
            panel_ptr(sweep.panel_element, sweep.packed_hr, projected,
                      next_panel(projected, panel, descending)),
            [](int64_t) {},
            [&](int64_t row, int64_t count, const V* sums) {
              for_each_unit<kUnitVectors>(projected, panel, [&](int v, int64_t unit, auto lanes) {
                for (int64_t i = 0; i < count; ++i) {
                  step.hidden(row + i, unit, lanes, sums[i * kUnitVectors + v]);
                }
              });
            });
      });
    }
  }

  static void backward_sweep(const BackwardSweep& sweep, int thread_idx, int num_threads) {
    const FlushSubnormals flush;
    const LayerShape& shape = sweep.args->shape;
    const PanelLayout hidden = make_panel_layout<Cell>(SweepProduct::kGradHidden, shape);
    const PanelLayout projected = make_panel_layout<Cell>(SweepProduct::kGradProjected, shape);
    const int64_t gate_size = kGates * shape.hidden_size;
    const bool wants_first_h = sweep.args->grad_h_0 != nullptr || sweep.dreset_h != nullptr;
    Team team(sweep, thread_idx, num_threads);
    // Step -1 only delivers grad_h_0 of the rows of step 0.
    const int64_t begin = sweep.begin == 0 && wants_first_h ? -1 : sweep.begin;
    for (int64_t s = sweep.end - 1; s >= begin; --s) {
      const BackwardStep<Cell, S> step(sweep, s);
      const bool descending = (s & 1) != 0;
      const int64_t product_rows = sweep.steps.rows(s + 1);
      const A* dgr_after = static_cast<const A*>(sweep.dgr_end);
      if (s + 1 < sweep.end) {
        dgr_after = static_cast<const A*>(sweep.dgr) +
                    (sweep.steps.row(s + 1) - sweep.first_row) * gate_size;
      }
      const OwnRows rows =
          team.own_rows(wants_first_h && product_rows > step.rows ? product_rows : step.rows);
      OwnRows multiplied = team.own_rows(product_rows);
      if (multiplied.count > rows.count) multiplied.count = rows.count;
      team.for_each_panel(hidden.panel_count<V>(), descending, [&](int64_t panel) {
        const auto finish = [&](int64_t row, int64_t count, const V* sums) {
          for_each_unit<kUnitVectors>(hidden, panel, [&](int v, int64_t unit, auto lanes) {
            for (int64_t i = 0; i < count; ++i) {
              step.hidden(row + i, unit, lanes, sums[i * kUnitVectors + v]);
            }
          });
        };
        multiply_panel<V, kUnitVectors, false, 1, S>(
            sweep.panel_element, multiplied,
            {{dgr_after, gate_size, panel_ptr(sweep.panel_element, sweep.packed_hh, hidden, panel),
              hidden.k_size}},
            panel_ptr(sweep.panel_element, sweep.packed_hh, hidden,
                      next_panel(hidden, panel, descending)),
            [&](int64_t row) { step.prefetch_hidden(row, panel * kUnitVectors * V::kLanes); },
            finish);
        const V zeros[kUnitVectors] = {V(A(0)), V(A(0))};
        for (int64_t idx = multiplied.count; idx < rows.count; ++idx) {
          finish(rows.first + idx, 1, zeros);
        }
      });
      if (step.dh == nullptr || step.rows == 0) continue;
      team.for_each_panel(projected.panel_count<V>(), descending, [&](int64_t panel) {
        multiply_panel<V, kUnitVectors, false, 1, S>(
            sweep.panel_element, team.own_rows(step.rows),
            {{step.dh, step.output_size,
              panel_ptr(sweep.panel_element, sweep.packed_hr, projected, panel), projected.k_size}},
            panel_ptr(sweep.panel_element, sweep.packed_hr, projected,
                      next_panel(projected, panel, descending)),
            [&](int64_t row) { step.prefetch_cell(row, panel * kUnitVectors * V::kLanes); },
            [&](int64_t row, int64_t count, const V* sums) {
              for_each_unit<kUnitVectors>(projected, panel, [&](int v, int64_t unit, auto lanes) {
                for (int64_t i = 0; i < count; ++i) {
                  step.cell(row + i, unit, lanes, sums[i * kUnitVectors + v]);
                }
              });
            });
      });
    }
  }

 private:
  // The cell on `count` rows from `row` on, given the sums of the rows and a panel [count][kCols].
  static void finish_cells(const ForwardStep<Cell, S>& step, const PanelLayout& gates,
                           int64_t panel, int64_t row, int64_t count, const V* input_sums,
                           const V* sums) {
    for_each_unit<kGateVectors>(gates, panel, [&](int v, int64_t unit, auto lanes) {
      const GateSums<V> input{offset_or_null(input_sums, v), kGateVectors, kCols};
      const GateSums<V> recurrent{sums + v, kGateVectors, kCols};
      constexpr bool is_full = std::is_same_v<decltype(lanes), AllLanes>;
      step.template cells<is_full ? kGroupRows : 1>(row, count, unit, lanes, input, recurrent);
    });
  }

  FUSEDRNN_HD static const void* panel_ptr(PanelElement element, const void* packed,
                                           const PanelLayout& layout, int64_t panel) {
    const int64_t bytes = element == PanelElement::kStorage ? sizeof(S) : sizeof(A);
    return static_cast<const char*>(packed) + panel * layout.panel_elements<V>() * bytes;
  }

  // The panel that a thread takes after this one, unless another thread has taken it.
  FUSEDRNN_HD static int64_t next_panel(const PanelLayout& layout, int64_t panel, bool descending) {
    const int64_t next = panel + (descending ? -1 : 1);
    return next < 0 || next == layout.panel_count<V>() ? 0 : next;
  }

  // Calls body(vector, unit, lanes) for each vector of units of a panel.
  template <int kVectors, class Body>
  FUSEDRNN_HD static void for_each_unit(const PanelLayout& layout, int64_t panel,
                                        const Body& body) {
    const int64_t begin = panel * kVectors * V::kLanes;
    const int64_t end = begin + kVectors * V::kLanes;
    int v = 0;
    for_each_vector<V>(begin, end < layout.units ? end : layout.units,
                       [&](int64_t unit, auto lanes) { body(v++, unit, lanes); });
  }
};

}  // namespace FUSEDRNN_ISA
}  // namespace fusedrnn
