// The pointwise part of one sweep step, on one row and one vector of units at a time.
//
// Both schedules end a matrix product in one of these functions: per_step reads the product
// from memory, persistent has it in registers. `row` is a row of the batch, `unit` the first
// of `lanes` units of the vector, where Count is AllLanes or int.
#pragma once

#include "cells/cell.h"
#include "common/macros.h"
#include "cpu/isa/partial.h"
#include "cpu/sweep.h"
#include "math/group.h"
#include "math/pack.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

// The number of lanes of a full vector, known to the compiler; a part of one is an int.
struct AllLanes {};

// The first `lanes` elements from src, of storage or accumulation type; the others are zeros.
template <class V, class T>
FUSEDRNN_HD V load_lanes(const T* src, AllLanes) {
  return V::load(src);
}
template <class V, class T>
FUSEDRNN_HD V load_lanes(const T* src, int lanes) {
  return load_partial<V>(src, lanes);
}
// Loads as load_lanes does; zeros where src is null.
template <class V, class T, class Count>
FUSEDRNN_HD V load_lanes_or_zero(const T* src, Count lanes) {
  return src != nullptr ? load_lanes<V>(src, lanes) : V(0.0f);
}
template <class V, class T>
FUSEDRNN_HD void store_lanes(const V& value, T* dst, AllLanes) {
  value.store(dst);
}
template <class V, class T>
FUSEDRNN_HD void store_lanes(const V& value, T* dst, int lanes) {
  store_partial(value, dst, lanes);
}

// dst += value.
template <class V, class T, class Count>
FUSEDRNN_HD void add_lanes(const V& value, T* dst, Count lanes) {
  store_lanes(value + load_lanes<V>(dst, lanes), dst, lanes);
}

// Calls body(unit, lanes) for the vectors of V of units [begin, end).
template <class V, class Body>
FUSEDRNN_HD void for_each_vector(int64_t begin, int64_t end, const Body& body) {
  int64_t unit = begin;
  for (; unit + V::kLanes <= end; unit += V::kLanes) body(unit, AllLanes{});
  if (unit < end) body(unit, static_cast<int>(end - unit));
}

FUSEDRNN_HD void prefetch(const void* ptr) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(ptr);
#else
  static_cast<void>(ptr);
#endif
}

// Fetches into the second cache.
FUSEDRNN_HD void prefetch_outer(const void* ptr) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(ptr, 0, 2);
#else
  static_cast<void>(ptr);
#endif
}

// Fetches the last line of a vector: where it lies across two, the vector before it has the first.
template <class V, class S>
FUSEDRNN_HD void prefetch_vector(const S* ptr) {
  prefetch(ptr + V::kLanes - 1);
}

template <class T>
FUSEDRNN_HD T* offset_or_null(T* base, int64_t offset) {
  return base != nullptr ? base + offset : nullptr;
}

// What a product gave for rows and for the gates of a vector of units, in memory.
template <class V>
struct GateSums {
  const V* first;  // of the first row, may be null
  int gate_stride, row_stride;
};

// The sums of one gate for kRows rows.
template <int kRows, class V>
FUSEDRNN_HD Group<V, kRows> group_rows(const GateSums<V>& sums, int gate) {
  return make_group<V, kRows>(
      [&](int i) { return sums.first[gate * sums.gate_stride + i * sums.row_stride]; });
}

template <template <class> class Cell, class S>
struct ForwardStep {
  using A = accum_t<S>;
  using V = Pack<A>;
  using C = Cell<V>;
  static constexpr int kSavedWidth = C::kSaved + C::kStates - 1;

  FUSEDRNN_HD ForwardStep(const ForwardSweep& sweep, int64_t s)
      : hidden_size(sweep.args->shape.hidden_size),
        bias_x(static_cast<const A*>(sweep.bias_x)),
        bias_r(static_cast<const A*>(sweep.bias_r)),
        params(static_cast<const A*>(sweep.params)),
        gx_row_stride(sweep.gx_row_stride),
        h_row_stride(sweep.h_row_stride),
        output_row_stride(sweep.output_row_stride),
        rows_after(sweep.steps.rows(s + 1)),
        reset_h(static_cast<const S*>(sweep.args->reset_h)),
        reset_c(static_cast<const S*>(sweep.args->reset_c)),
        c(static_cast<A*>(sweep.c)),
        h_raw(static_cast<A*>(sweep.h_raw)),
        h_prev(static_cast<const A*>(sweep.h[s & 1])),
        h_next(static_cast<A*>(sweep.h[(s + 1) & 1])) {
    const SweepSteps& steps = sweep.steps;
    const int64_t row = steps.row(s), caller_row = steps.caller_row(s);
    const int64_t chunk_row = row - sweep.first_row;
    input = offset_or_null(static_cast<const A*>(sweep.input),
                           chunk_row * sweep.args->shape.input_size);
    gx = offset_or_null(static_cast<const A*>(sweep.gx), chunk_row * gx_row_stride);
    order = steps.order;
    output_order = sweep.output_is_scratch ? nullptr : order;
    output =
        static_cast<S*>(sweep.output) +
        (sweep.output_is_scratch ? row - sweep.output_first_row : caller_row) * output_row_stride;
    saved = offset_or_null(static_cast<S*>(sweep.saved),
                           (row - sweep.saved_first_row) * kSavedWidth * hidden_size);
    all_c = offset_or_null(static_cast<S*>(sweep.args->c), caller_row * hidden_size);
    reset = offset_or_null(sweep.args->shape.reset, caller_row);
    if (rows_after > 0) {
      reset_after = offset_or_null(sweep.args->shape.reset, steps.caller_row(s + 1));
    }
  }

  // Fetches what cell will read or write and has not been touched since another row.
  FUSEDRNN_HD void prefetch_cell(int64_t row, int64_t unit) const {
    if (C::kStates > 1) prefetch_vector<V>(c + row * hidden_size + unit);
    for (int k = 0; saved != nullptr && k < kSavedWidth; ++k) {
      prefetch_vector<V>(saved + (row * kSavedWidth + k) * hidden_size + unit);
    }
    if (gx == nullptr || static_cast<const void*>(gx) == saved) return;  // where it is in `saved`
    for (int gate = 0; gate < C::kGates; ++gate) {
      prefetch_vector<V>(gx + row * gx_row_stride + gate * hidden_size + unit);
    }
  }

  // The cell on kRows rows from `row` on at once, given the recurrent side of the pre-activations
  // without bias, and without gx the input side as well, or else that one apart: `input` may be
  // empty.
  template <int kRows = 1, class Count>
  FUSEDRNN_HD void cell(int64_t row, int64_t unit, Count lanes, const GateSums<V>& input,
                        const GateSums<V>& recurrent) const {
    using RowGroup = Group<V, kRows>;
    const auto load_rows = [&](const A* src, int64_t row_stride) {
      return make_group<V, kRows>(
          [&](int i) { return load_lanes<V>(src + (row + i) * row_stride + unit, lanes); });
    };
    const auto store_rows = [&](const RowGroup& values, auto* dst, int64_t row_stride) {
      for (int i = 0; i < kRows; ++i) {
        store_lanes(values.member[i], dst + (row + i) * row_stride + unit, lanes);
      }
    };
    Values<RowGroup, C::kGates> x, r;
    for (int gate = 0; gate < C::kGates; ++gate) {
      const int64_t column = gate * hidden_size;
      x[gate] = RowGroup(load_lanes<V>(bias_x + column + unit, lanes));
      if (gx != nullptr) x[gate] = x[gate] + load_rows(gx + column, gx_row_stride);
      if (input.first != nullptr) x[gate] = x[gate] + group_rows<kRows>(input, gate);
      // No value is plainly copied here: of several copies GCC makes one of a block of bytes, whose
      // vectors are then read before their parts have arrived.
      if (C::kSplit) {
        r[gate] = group_rows<kRows>(recurrent, gate) +
                  RowGroup(load_lanes<V>(bias_r + column + unit, lanes));
      } else {
        x[gate] = x[gate] + group_rows<kRows>(recurrent, gate);
        r[gate] = RowGroup(0.0f);
      }
    }
    Values<RowGroup, C::kStates> prev, next;
    // A cell that uses h itself is never projected, so its h has hidden_size columns.
    prev[0] = h_raw != nullptr ? RowGroup(0.0f) : load_rows(h_prev, h_row_stride);
    if (C::kStates > 1) {
      prev[C::kStates - 1] = make_group<V, kRows>([&](int i) {
        const int64_t state = (row + i) * hidden_size + unit;
        return reset != nullptr && reset[ordered_row(order, row + i)] != 0
                   ? load_lanes_or_zero<V>(offset_or_null(reset_c, state), lanes)
                   : load_lanes<V>(c + state, lanes);
      });
    }
    Values<RowGroup, C::kParams> unit_params{};
    for (int k = 0; k < C::kParams; ++k) {
      unit_params[k] = RowGroup(load_lanes<V>(params + k * hidden_size + unit, lanes));
    }
    Values<RowGroup, C::kSaved> unit_saved;
    Cell<RowGroup>::forward(x, r, unit_params, prev, next, unit_saved);

    if (C::kStates > 1) {
      store_rows(next[C::kStates - 1], c, hidden_size);
      for (int i = 0; all_c != nullptr && i < kRows; ++i) {
        const int64_t offset = ordered_row(order, row + i) * hidden_size + unit;
        store_lanes(next[C::kStates - 1].member[i], all_c + offset, lanes);
      }
    }
    if (saved != nullptr && kSavedWidth > 0) {
      const int64_t width = kSavedWidth * hidden_size;
      for (int k = 0; k < C::kSaved; ++k) store_rows(unit_saved[k], saved + k * hidden_size, width);
      for (int k = 1; k < C::kStates; ++k) {
        store_rows(next[k], saved + (C::kSaved + k - 1) * hidden_size, width);
      }
    }
    if (h_raw != nullptr) {
      store_rows(next[0], h_raw, hidden_size);
    } else {
      for (int i = 0; i < kRows; ++i) hidden(row + i, unit, lanes, next[0].member[i]);
    }
  }

  // The cell on `count` rows from `row` on, at most kRows at once.
  template <int kRows, class Count>
  FUSEDRNN_HD void cells(int64_t row, int64_t count, int64_t unit, Count lanes, GateSums<V> input,
                         GateSums<V> recurrent) const {
    for (; count >= kRows; row += kRows, count -= kRows) {
      cell<kRows>(row, unit, lanes, input, recurrent);
      input.first = offset_or_null(input.first, kRows * input.row_stride);
      recurrent.first += kRows * recurrent.row_stride;
    }
    if constexpr (kRows > 1) cells<kRows - 1>(row, count, unit, lanes, input, recurrent);
  }

  // Hands h to the output and, as the output rounds it, to the next step, unless a reset replaces
  // it there: a sequence gives the same numbers whether it comes at once or in pieces.
  template <class Count>
  FUSEDRNN_HD void hidden(int64_t row, int64_t unit, Count lanes, const V& h) const {
    S* output_row = output + ordered_row(output_order, row) * output_row_stride + unit;
    store_lanes(h, output_row, lanes);
    A* next = h_next + row * h_row_stride + unit;
    if (reset_after != nullptr && row < rows_after && reset_after[ordered_row(order, row)] != 0) {
      const S* replacement = offset_or_null(reset_h, row * h_row_stride + unit);
      store_lanes(load_lanes_or_zero<V>(replacement, lanes), next, lanes);
    } else {
      store_lanes(load_lanes<V>(output_row, lanes), next, lanes);
    }
  }

  int64_t hidden_size;
  const A* bias_x;  // as in ForwardSweep
  const A* bias_r;
  const A* params;
  int64_t gx_row_stride, h_row_stride, output_row_stride;
  int64_t rows_after;  // of the step after
  const int64_t* order;
  const int64_t* output_order;  // null where output is scratch
  const S* reset_h;             // as in LayerForwardArgs
  const S* reset_c;
  A* c;
  A* h_raw;
  const A* h_prev;
  A* h_next;
  const A* input;  // where the step begins, as are the following
  const A* gx;
  S* output;
  S* saved;
  S* all_c;
  const uint8_t* reset;
  const uint8_t* reset_after = nullptr;  // where the step after begins
};

template <template <class> class Cell, class S>
struct BackwardStep {
  using A = accum_t<S>;
  using V = Pack<A>;
  using C = Cell<V>;
  static constexpr int kSavedWidth = C::kSaved + C::kStates - 1;

  FUSEDRNN_HD BackwardStep(const BackwardSweep& sweep, int64_t s)
      : hidden_size(sweep.args->shape.hidden_size),
        output_size(sweep.args->shape.proj_size > 0 ? sweep.args->shape.proj_size : hidden_size),
        rows(sweep.steps.rows(s)),
        rows_before(sweep.steps.rows(s - 1)),
        rows_after(sweep.steps.rows(s + 1)),
        order(sweep.steps.order),
        output_row_stride(sweep.args->output_row_stride),
        grad_output_row_stride(sweep.args->grad_output_row_stride),
        c_0(static_cast<const S*>(sweep.args->c_0)),
        h_0(static_cast<const S*>(sweep.args->h_0)),
        reset_h(static_cast<const S*>(sweep.args->reset_h)),
        reset_c(static_cast<const S*>(sweep.args->reset_c)),
        params(static_cast<const A*>(sweep.params)),
        grad_h_0(static_cast<S*>(sweep.args->grad_h_0)),
        carry(static_cast<A*>(sweep.carry)),
        dc(static_cast<A*>(sweep.dc)),
        dreset_h(static_cast<A*>(sweep.dreset_h)),
        dreset_c(static_cast<A*>(sweep.dreset_c)) {
    const int64_t saved_row_size = kSavedWidth * hidden_size;
    const auto* saved_base = static_cast<const S*>(sweep.saved);
    const uint8_t* reset_base = sweep.args->shape.reset;
    const auto* output_base = static_cast<const S*>(sweep.args->output);
    const SweepSteps& steps = sweep.steps;
    if (rows_before > 0) {
      const int64_t row = steps.row(s - 1);
      saved_before = offset_or_null(saved_base, (row - sweep.saved_first_row) * saved_row_size);
      output_before = output_base + steps.caller_row(s - 1) * output_row_stride;
    }
    if (rows > 0) {
      const int64_t row = steps.row(s), caller_row = steps.caller_row(s);
      const int64_t chunk_row = row - sweep.first_row;
      saved = offset_or_null(saved_base, (row - sweep.saved_first_row) * saved_row_size);
      output = output_base + caller_row * output_row_stride;
      grad_c = offset_or_null(static_cast<const S*>(sweep.args->grad_c), caller_row * hidden_size);
      reset = offset_or_null(reset_base, caller_row);
      grad_output = offset_or_null(static_cast<const S*>(sweep.args->grad_output),
                                   caller_row * grad_output_row_stride);
      dgx = static_cast<A*>(sweep.dgx) + chunk_row * C::kGates * hidden_size;
      dgr = static_cast<A*>(sweep.dgr) + chunk_row * C::kGates * hidden_size;
      dparams =
          offset_or_null(static_cast<A*>(sweep.dparams), chunk_row * C::kParams * hidden_size);
      dh = static_cast<A*>(sweep.dh);
      if (dh != nullptr) dh += chunk_row * output_size;
    }
    if (rows_after > 0) reset_after = offset_or_null(reset_base, steps.caller_row(s + 1));
  }

  // Fetches what hidden and cell will read and has not been touched since another row.
  FUSEDRNN_HD void prefetch_hidden(int64_t row, int64_t unit) const {
    if (row >= rows) return;
    if (grad_output != nullptr) {
      prefetch_vector<V>(grad_output + ordered_row(order, row) * grad_output_row_stride + unit);
    }
    if (dh == nullptr) prefetch_cell(row, unit);
  }
  FUSEDRNN_HD void prefetch_cell(int64_t row, int64_t unit) const {
    for (int k = 0; k < kSavedWidth; ++k) {
      prefetch_vector<V>(saved + (row * kSavedWidth + k) * hidden_size + unit);
    }
    const int64_t in_output = ordered_row(order, row) * output_row_stride + unit;
    if (C::kReadsNextH && dh == nullptr) prefetch_vector<V>(output + in_output);
    if (row < rows_before && C::kStates > 1) {
      prefetch_vector<V>(saved_before + (row * kSavedWidth + C::kSaved) * hidden_size + unit);
    }
    if (C::kReadsPrevH && row < rows_before && dh == nullptr) {
      prefetch_vector<V>(output_before + in_output);
    }
  }

  // The gradient of h, given what flows into it through the recurrent product; where the next step
  // of the sweep resets the row, that belongs to reset_h instead. Rows that no earlier step of
  // the sweep has are done: they deliver grad_h_0.
  template <class Count>
  FUSEDRNN_HD void hidden(int64_t row, int64_t unit, Count lanes, const V& product) const {
    A* carry_row = carry + row * output_size + unit;
    V total = product + load_lanes<V>(carry_row, lanes);
    const int64_t caller_row = ordered_row(order, row);
    if (reset_after != nullptr && row < rows_after && reset_after[caller_row] != 0) {
      add_lanes(total, dreset_h + row * output_size + unit, lanes);
      total = V(0.0f);
    }
    if (row >= rows) {
      if (grad_h_0 != nullptr) store_lanes(total, grad_h_0 + row * output_size + unit, lanes);
      return;
    }
    if (grad_output != nullptr) {
      total += load_lanes<V>(grad_output + caller_row * grad_output_row_stride + unit, lanes);
    }
    if (dh != nullptr) {
      store_lanes(total, dh + row * output_size + unit, lanes);
      store_lanes(V(0.0f), carry_row, lanes);
    } else {
      cell(row, unit, lanes, total);
    }
  }

  // The cell, given the gradient of its h.
  template <class Count>
  FUSEDRNN_HD void cell(int64_t row, int64_t unit, Count lanes, const V& grad_h) const {
    const int64_t state = row * hidden_size + unit;
    const int64_t caller_row = ordered_row(order, row);
    const bool is_reset = reset != nullptr && reset[caller_row] != 0;
    // Whether the row's previous states are not those of another step, but given ones.
    const bool is_given = is_reset || row >= rows_before;
    const S* given_h = is_reset ? reset_h : h_0;
    const S* given_c = is_reset ? reset_c : c_0;
    Values<V, C::kSaved> unit_saved;
    Values<V, C::kStates> prev, next, dnext, dprev;
    const S* saved_row = offset_or_null(saved, row * kSavedWidth * hidden_size + unit);
    for (int k = 0; k < C::kSaved; ++k)
      unit_saved[k] = load_lanes<V>(saved_row + k * hidden_size, lanes);
    prev[0] = next[0] = V(0.0f);
    if (C::kReadsPrevH && dh == nullptr) {
      prev[0] = is_given
                    ? load_lanes_or_zero<V>(offset_or_null(given_h, state), lanes)
                    : load_lanes<V>(output_before + caller_row * output_row_stride + unit, lanes);
    }
    if (C::kReadsNextH && dh == nullptr) {
      next[0] = load_lanes<V>(output + caller_row * output_row_stride + unit, lanes);
    }
    dnext[0] = grad_h;
    if (C::kStates > 1) {
      constexpr int kC = C::kStates - 1;
      const int64_t saved_c = C::kSaved * hidden_size;
      prev[kC] = is_given
                     ? load_lanes_or_zero<V>(offset_or_null(given_c, state), lanes)
                     : load_lanes<V>(
                           saved_before + row * kSavedWidth * hidden_size + unit + saved_c, lanes);
      next[kC] = load_lanes<V>(saved_row + saved_c, lanes);
      dnext[kC] = load_lanes<V>(dc + state, lanes);
      if (grad_c != nullptr) {
        dnext[kC] += load_lanes<V>(grad_c + caller_row * hidden_size + unit, lanes);
      }
    }
    Values<V, C::kGates> dx, dr;
    Values<V, C::kParams> unit_params{}, unit_dparams;
    for (int k = 0; k < C::kParams; ++k) {
      unit_params[k] = load_lanes<V>(params + k * hidden_size + unit, lanes);
    }
    C::backward(unit_saved, unit_params, prev, next, dnext, dx, dr, dprev, unit_dparams);
    for (int k = 0; dparams != nullptr && k < C::kParams; ++k) {
      store_lanes(unit_dparams[k], dparams + (row * C::kParams + k) * hidden_size + unit, lanes);
    }

    const int64_t gate_row = row * C::kGates * hidden_size + unit;
    for (int gate = 0; gate < C::kGates; ++gate) {
      store_lanes(dx[gate], dgx + gate_row + gate * hidden_size, lanes);
      if (C::kSplit) store_lanes(dr[gate], dgr + gate_row + gate * hidden_size, lanes);
    }
    if (C::kStates > 1) {
      if (is_reset) {
        add_lanes(dprev[C::kStates - 1], dreset_c + state, lanes);
        dprev[C::kStates - 1] = V(0.0f);
      }
      store_lanes(dprev[C::kStates - 1], dc + state, lanes);
    }
    if (dh == nullptr) store_lanes(dprev[0], carry + state, lanes);
  }

  int64_t hidden_size, output_size;
  int64_t rows, rows_before, rows_after;  // of this step, the one before and the one after
  const int64_t* order;
  int64_t output_row_stride, grad_output_row_stride;
  const S* c_0;
  const S* h_0;
  const S* reset_h;
  const S* reset_c;
  const A* params;
  S* grad_h_0;
  A* carry;
  A* dc;
  A* dreset_h;
  A* dreset_c;
  const S* saved_before = nullptr;  // where the step before begins
  const S* output_before = nullptr;
  const uint8_t* reset_after = nullptr;  // where the step after begins
  const S* saved = nullptr;              // where the step begins, as are the following
  const S* output = nullptr;
  const S* grad_output = nullptr;
  const S* grad_c = nullptr;
  const uint8_t* reset = nullptr;
  A* dgx = nullptr;
  A* dgr = nullptr;
  A* dparams = nullptr;
  A* dh = nullptr;
};

}  // namespace FUSEDRNN_ISA
}  // namespace fusedrnn
