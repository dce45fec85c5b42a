// Schedule persistent on weights as they lie: what one thread of the parallel region does for a
// chunk of steps. It is for few steps of few rows, where packing would cost more than it saves.
//
// A product is rows [rows, k_size] * weight^T, weight [units, k_size] with k contiguous. Each sum
// is a vector along k at first. Those of a panel, V::kLanes units with all their gates, are then
// added up across their lanes together, so that a panel ends in step.h as those of panel.h do.
// Weights may be stored as another type W, and are widened as they are read; the scales of int8_t
// multiply the sums of each side.
#pragma once

#include <type_traits>

#include "cpu/isa/panel.h"
#include "cpu/isa/panel_element.h"
#include "cpu/isa/partial.h"
#include "cpu/isa/step.h"
#include "cpu/isa/team.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

// Rows that a unit is multiplied by while it is in a register, and while it is in the first cache.
constexpr int kDirectRows = 4;
constexpr int kDirectBlockRows = 8;

// Units multiplied at once by that many rows: their sums, a vector of each unit and one of a row
// fit into the registers.
template <class V>
constexpr int direct_units(int rows) {
  const int units = 4 * rows + 1 <= kAccumulators ? 4 : 2;
  return units < V::kLanes ? units : V::kLanes;
}

// The operands of a product: rows of a step, row 0 of which is at `row_0`, and a weight with rows
// of k_size elements that ends at `end`; of int8_t, scale has that of each row.
template <class A, class W>
struct DirectOperands {
  const A* row_0;
  int64_t row_stride;
  const W* weight;
  const W* end;
  int64_t k_size;
  const float* scale;
};

// acc[row * kUnits + unit] += the products of a vector along k of each row and unit. Widening makes
// so much work of a line of weights that too few are on their way; else fetching only costs time.
template <class V, int kRows, int kUnits, class A, class W>
FUSEDRNN_HD void multiply_vectors(const A* row, int64_t row_stride, const W* const (&units)[kUnits],
                                  int64_t k, int64_t ahead, V (&acc)[kRows * kUnits]) {
  V values[kUnits];
#pragma GCC unroll 4
  for (int unit = 0; unit < kUnits; ++unit) {
    values[unit] = load_panel<V>(units[unit] + k);
    if constexpr (sizeof(W) < sizeof(A)) prefetch(units[unit] + k + ahead);
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
    const V value = V::load(row + i * row_stride + k);
#pragma GCC unroll 4
    for (int unit = 0; unit < kUnits; ++unit) {
      acc[i * kUnits + unit] = madd(value, values[unit], acc[i * kUnits + unit]);
    }
  }
}

// The first n lanes from memory, the others 0. Reads beyond them, but not beyond `end`: copies of
// some bytes would cost more than a row of weights.
template <class V, class W>
FUSEDRNN_HD V load_tail(const W* ptr, int n, const typename V::Mask& inside, const W* end) {
  if (end - ptr < V::kLanes) return load_partial<V>(ptr, n);
  return select(inside, load_panel<V>(ptr), V(0.0f));
}

// The vectors along k that a product takes at once, in chains of additions of their own: enough
// sums to hide the latency of an addition, which several rows of a step have as they are.
template <class V>
constexpr int direct_chains(int64_t step_rows) {
  return step_rows > 1 ? 1 : (kAccumulators >= 16 ? 16 : 8) / direct_units<V>(1);
}

// sums[row][unit] = products along k of kRows rows from `row` on and of V::kLanes rows of a weight
// from unit_0 on, or += if `accumulate`. Of fewer than those, unit_count, the last is multiplied
// again. Not inlined: one copy serves every cell.
template <class V, int kRows, int kChains, class A, class W>
void multiply_direct(const A* row, int64_t row_stride, const W* unit_0, int64_t unit_count,
                     const W* end, int64_t k_size, bool accumulate, V (*sums)[V::kLanes]) {
  constexpr int kUnits = direct_units<V>(kRows), kSums = kRows * kUnits;
  const int64_t whole = k_size / V::kLanes * V::kLanes;
  const int tail = static_cast<int>(k_size - whole);
  const V one(A(1));
  const typename V::Mask inside = V(A(0)) < load_partial<V>(reinterpret_cast<const A*>(&one), tail);
  V row_tails[kRows];
  for (int i = 0; i < kRows; ++i) {
    row_tails[i] = tail > 0 ? load_partial<V>(row + i * row_stride + whole, tail) : V(A(0));
  }
  for (int first = 0; first < V::kLanes; first += kUnits) {
    const W* units[kUnits];
#pragma GCC unroll 4
    for (int unit = 0; unit < kUnits; ++unit) {
      const int64_t idx = first + unit;
      units[unit] = unit_0 + (idx < unit_count ? idx : unit_count - 1) * k_size;
    }
    V acc[kChains][kSums];
#pragma GCC unroll 8
    for (int chain = 0; chain < kChains; ++chain) {
#pragma GCC unroll 32
      for (int i = 0; i < kSums; ++i) acc[chain][i] = V(A(0));
    }
    const int64_t ahead = kUnits * k_size;
    int64_t k = 0;
    for (; k + kChains * V::kLanes <= whole; k += kChains * V::kLanes) {
#pragma GCC unroll 8
      for (int chain = 0; chain < kChains; ++chain) {
        multiply_vectors<V, kRows, kUnits>(row, row_stride, units, k + chain * V::kLanes, ahead,
                                           acc[chain]);
      }
    }
    for (; k < whole; k += V::kLanes) {
      multiply_vectors<V, kRows, kUnits>(row, row_stride, units, k, ahead, acc[0]);
    }
    if (tail > 0) {
#pragma GCC unroll 4
      for (int unit = 0; unit < kUnits; ++unit) {
        const V values = load_tail<V>(units[unit] + whole, tail, inside, end);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
          acc[0][i * kUnits + unit] = madd(row_tails[i], values, acc[0][i * kUnits + unit]);
        }
      }
    }
#pragma GCC unroll 32
    for (int i = 0; i < kSums; ++i) {
      V sum = acc[0][i];
#pragma GCC unroll 8
      for (int chain = 1; chain < kChains; ++chain) sum += acc[chain][i];
      V& total = sums[i / kUnits][first + i % kUnits];
      total = accumulate ? total + sum : sum;
    }
  }
}

// Calls multiply_direct for row_count rows of a step, 1 <= row_count <= kDirectRows.
template <class V, int kRows = kDirectRows, class A, class W>
FUSEDRNN_HD void multiply_direct_rows(int row_count, int64_t step_rows, const A* row,
                                      int64_t row_stride, const W* unit_0, int64_t unit_count,
                                      const W* end, int64_t k_size, bool accumulate,
                                      V (*sums)[V::kLanes]) {
  if constexpr (kRows > 1) {
    if (row_count < kRows) {
      return multiply_direct_rows<V, kRows - 1>(row_count, step_rows, row, row_stride, unit_0,
                                                unit_count, end, k_size, accumulate, sums);
    }
  } else if (step_rows == 1) {
    return multiply_direct<V, 1, direct_chains<V>(1)>(row, row_stride, unit_0, unit_count, end,
                                                      k_size, accumulate, sums);
  }
  multiply_direct<V, kRows, direct_chains<V>(2)>(row, row_stride, unit_0, unit_count, end, k_size,
                                                 accumulate, sums);
}

// Sums of the products of V::kLanes rows of a weight from `first` on, of which `count` are there,
// as the weight's scales have them.
template <class V, class A, class W>
FUSEDRNN_HD V apply_scale(const V& sums, const DirectOperands<A, W>& operands, int64_t first,
                          int64_t count) {
  if constexpr (std::is_same_v<W, int8_t>) {
    const float* scale = operands.scale + first;
    if (count >= V::kLanes) return sums * V::load(scale);
    return sums * load_partial<V>(scale, static_cast<int>(count));
  } else {
    return sums;
  }
}

// Calls finish(row, sums) for each of the rows with the sums of V::kLanes units from `unit` on,
// of `units`: sums [kGroups] of all products or, with kApart, [kProducts][kGroups].
template <class V, int kGroups, bool kApart, int kProducts, class A, class W, class Finish>
FUSEDRNN_HD void multiply_direct_panel(const OwnRows& rows,
                                       const DirectOperands<A, W> (&operands)[kProducts],
                                       int64_t unit, int64_t units, const Finish& finish) {
  constexpr int kSets = kApart ? kProducts : 1;
  static_assert(kSets == kProducts || !std::is_same_v<W, int8_t>, "each side has its own scales");
  const int64_t blocks = (rows.count + kDirectBlockRows - 1) / kDirectBlockRows;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = rows.count * block / blocks;
    const int64_t last = rows.count * (block + 1) / blocks;
    const int count = static_cast<int>(last - first);
    V totals[kDirectBlockRows][kSets * kGroups];
    for (int group = 0; group < kGroups; ++group) {
      V sums[kDirectBlockRows][V::kLanes];
      for (int i = 0; i < kProducts; ++i) {
        const DirectOperands<A, W>& one = operands[i];
        const int parts = (count + kDirectRows - 1) / kDirectRows;
        for (int part = 0; part < parts; ++part) {
          const int row = count * part / parts;
          multiply_direct_rows<V>(count * (part + 1) / parts - row, rows.step_count,
                                  one.row_0 + (rows.first + first + row) * one.row_stride,
                                  one.row_stride, one.weight + (group * units + unit) * one.k_size,
                                  units - unit, one.end, one.k_size, !kApart && i > 0, sums + row);
        }
        if (!kApart && i + 1 < kProducts) continue;
        for (int row = 0; row < count; ++row) {
          totals[row][(kApart ? i : 0) * kGroups + group] =
              apply_scale(sum_lanes(sums[row]), one, group * units + unit, units - unit);
        }
      }
    }
    for (int row = 0; row < count; ++row) finish(rows.first + first + row, totals[row]);
  }
}

template <template <class> class Cell, class S, class W>
struct Direct {
  using A = accum_t<S>;
  using V = Pack<A>;
  using Operands = DirectOperands<A, W>;
  static constexpr int kGates = Cell<V>::kGates;
  static constexpr bool kApart = Cell<V>::kSplit || std::is_same_v<W, int8_t>;

  static void forward_sweep(const ForwardSweep& sweep, int thread_idx, int num_threads) {
    const FlushSubnormals flush;
    const LayerShape& shape = sweep.args->shape;
    const LayerWeights& weights = sweep.args->weights;
    const int64_t hidden_size = shape.hidden_size, output_size = shape.output_size();
    Team team(sweep, thread_idx, num_threads);
    for (int64_t s = sweep.begin; s < sweep.end; ++s) {
      const ForwardStep<Cell, S> step(sweep, s);
      const bool descending = ((s & 1) != 0) != sweep.descending;
      const OwnRows rows = team.own_rows(sweep.steps.rows(s));
      const Operands input = operands(step.input, shape.input_size, weights.weight_ih,
                                      weights.scale_ih, kGates * hidden_size, shape.input_size);
      const Operands recurrent = operands(step.h_prev, step.h_row_stride, weights.weight_hh,
                                          weights.scale_hh, kGates * hidden_size, output_size);
      for_each_vector_of_units(team, hidden_size, descending, [&](int64_t unit, auto lanes) {
        multiply_direct_panel<V, kGates, kApart, 2>(
            rows, {input, recurrent}, unit, hidden_size, [&](int64_t row, const V* sums) {
              if constexpr (kApart) {
                step.cell(row, unit, lanes, {sums, 1, 0}, {sums + kGates, 1, 0});
              } else {
                step.cell(row, unit, lanes, {}, {sums, 1, 0});
              }
            });
      });
      if (step.h_raw == nullptr) continue;
      const Operands raw = operands(step.h_raw, hidden_size, weights.weight_hr, weights.scale_hr,
                                    output_size, hidden_size);
      for_each_vector_of_units(team, output_size, descending, [&](int64_t unit, auto lanes) {
        multiply_direct_panel<V, 1, false, 1>(
            rows, {raw}, unit, output_size,
            [&](int64_t row, const V* sums) { step.hidden(row, unit, lanes, sums[0]); });
      });
    }
  }

 private:
  FUSEDRNN_HD static Operands operands(const A* row_0, int64_t row_stride, const void* weight,
                                       const float* scale, int64_t units, int64_t k_size) {
    const auto* first = static_cast<const W*>(weight);
    return {row_0, row_stride, first, first + units * k_size, k_size, scale};
  }

  // Calls body(unit, lanes) for vectors of units, each on one thread.
  template <class Body>
  FUSEDRNN_HD static void for_each_vector_of_units(Team& team, int64_t units, bool descending,
                                                   const Body& body) {
    const int64_t panels = (units + V::kLanes - 1) / V::kLanes;
    team.for_each_panel(panels, descending, [&](int64_t panel) {
      const int64_t unit = panel * V::kLanes;
      const int64_t end = unit + V::kLanes;
      for_each_vector<V>(unit, end < units ? end : units, body);
    });
  }
};

}  // namespace FUSEDRNN_ISA
}  // namespace fusedrnn
