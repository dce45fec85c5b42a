// What every schedule does for one hidden unit of one row of a sweep step: the cell, its states,
// what it leaves for backward, and for backward the gradients of its gates.
//
// Names and buffers are those of cuda_kernel_table.h.
#pragma once

#include "cells/cell.h"
#include "cuda/cuda_kernel_table.h"
#include "cuda/device/memory.cuh"
#include "cuda/device/thread.cuh"

namespace fusedrnn {

// Element i of S as A, of memory that no launch of the sweep writes.
template <class S>
FUSEDRNN_DEV accum_t<S> load_at(const void* base, int64_t i) {
  return to_accum(ldg(static_cast<const S*>(base) + i));
}
// The same of memory that the launch before, or this thread, may have written.
template <class S>
FUSEDRNN_DEV accum_t<S> load_written(const void* base, int64_t i) {
  return to_accum(load_global(static_cast<const S*>(base) + i));
}
template <class S>
FUSEDRNN_DEV accum_t<S> load_or_zero(const void* base, int64_t i) {
  return base != nullptr ? load_at<S>(base, i) : accum_t<S>(0);
}
// Rounds value to S.
template <class S>
FUSEDRNN_DEV void store_at(void* base, int64_t i, accum_t<S> value) {
  store_global(static_cast<S*>(base) + i, from_accum<S>(value));
}
template <class S>
FUSEDRNN_DEV accum_t<S> rounded(accum_t<S> value) {
  return to_accum(from_accum<S>(value));
}

// What a sweep step and its neighbours are to one row.
struct RowPart {
  bool is_in;                  // the step has the row
  bool has_before, has_after;  // so has the step before, the step after
  bool resets, resets_after;   // what enters this step, the step after, is replaced
  bool is_empty;               // the row has no step at all
};
template <class Buffers>
FUSEDRNN_DEV RowPart row_part(const Buffers& buffers, const StepRows& step, int64_t row) {
  RowPart part;
  part.is_in = row < step.rows;
  part.has_before = row < step.rows_before;
  part.has_after = row < step.rows_after;
  part.resets = part.resets_after = part.is_empty = false;
  if (buffers.lengths != nullptr && (part.is_in || part.has_before || part.has_after)) {
    const int64_t length = ldg(buffers.lengths + row);
    part.is_in = part.is_in && step.time < length;
    part.has_before = part.has_before && step.time_before < length;
    part.has_after = part.has_after && step.time_after < length;
    part.is_empty = length <= 0;
  }
  if (buffers.reset != nullptr) {
    part.resets = part.is_in && ldg(buffers.reset + step.row + row) != 0;
    part.resets_after = part.has_after && ldg(buffers.reset + step.row_after + row) != 0;
  }
  return part;
}

// Whether a time, of a step of so many rows, has any of `count` rows from `first` on; a warp asks,
// with all its threads, of 32 rows at most.
template <class Buffers>
FUSEDRNN_DEV bool has_any(const Buffers& buffers, int64_t first, int count, int64_t rows,
                          int64_t time) {
  if (buffers.lengths == nullptr) return first < rows;
  const int64_t row = first + lane_idx();
  const bool is_row = lane_idx() < count && row < rows;
  return any_of_warp(is_row && time < ldg(buffers.lengths + (is_row ? row : 0)));
}

// Whether backward delivers the gradient of a row's h_0 at a step that does not have the row: the
// row starts in the step after, or has no step and this is the first one visited.
FUSEDRNN_DEV bool starts_after(const StepRows& step, const RowPart& part) {
  return part.has_after || (part.is_empty && step.rows_after == 0);
}

// The row of h that enters a row's step, or null: zeros. The buffers may be those of either pass.
template <class S, class Buffers>
FUSEDRNN_DEV const S* h_before(const LayerSizes& sizes, const Buffers& buffers,
                               const StepRows& step, const RowPart& part, int64_t row) {
  const void* h = buffers.h_0;
  int64_t first = row * sizes.output_size;
  if (part.resets) {
    h = buffers.reset_h;
  } else if (part.has_before) {
    h = buffers.output;
    first = (step.row_before + row) * sizes.output_row_stride;
  }
  return h != nullptr ? static_cast<const S*>(h) + first : nullptr;
}
template <class S, class Buffers>
FUSEDRNN_DEV accum_t<S> load_h_before(const LayerSizes& sizes, const Buffers& buffers,
                                      const StepRows& step, const RowPart& part, int64_t row,
                                      int64_t column) {
  const S* h = h_before<S>(sizes, buffers, step, part, row);
  return h != nullptr ? load_written<S>(h, column) : accum_t<S>(0);
}

template <class S>
FUSEDRNN_DEV accum_t<S> load_grad_output(const LayerSizes& sizes, const BackwardBuffers& buffers,
                                         const StepRows& step, int64_t row, int64_t column) {
  return load_or_zero<S>(buffers.grad_output,
                         (step.row + row) * sizes.grad_output_row_stride + column);
}

// Given the gradient of the state that enters a row's step, adds it to that of reset_h or reset_c
// where a reset put it there; returns what goes on to the step before. One thread owns each sum.
template <class S>
FUSEDRNN_DEV accum_t<S> pass_reset(void* dreset, bool resets, int64_t i, accum_t<S> grad) {
  if (!resets) return grad;
  using A = accum_t<S>;
  if (dreset != nullptr) store_at<A>(dreset, i, load_written<A>(dreset, i) + grad);
  return accum_t<S>(0);
}

template <template <class> class Cell, class S>
struct CellStep {
  using A = accum_t<S>;
  using C = Cell<A>;
  static constexpr int kGates = C::kGates;
  static constexpr int kSavedWidth = C::kSaved + C::kStates - 1;
  static constexpr bool kHasC = C::kStates > 1;
  static constexpr int kC = C::kStates - 1;  // the index of c among the states
  using Gates = Values<A, kGates>;
  using Params = Values<A, C::kParams>;

  // The biases of a unit; without kSplit only their sum matters.
  FUSEDRNN_DEV static void load_bias(const LayerSizes& sizes, const ForwardBuffers& buffers,
                                     int64_t unit, Gates& bias_x, Gates& bias_r) {
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
      const int64_t column = gate * sizes.hidden_size + unit;
      bias_x[gate] = load_or_zero<S>(buffers.bias_ih, column);
      bias_r[gate] = load_or_zero<S>(buffers.bias_hh, column);
      if constexpr (!C::kSplit) {
        bias_x[gate] += bias_r[gate];
        bias_r[gate] = A(0);
      }
    }
  }

  // The params of a unit; the buffers may be those of either pass.
  template <class Buffers>
  FUSEDRNN_DEV static Params load_params(const LayerSizes& sizes, const Buffers& buffers,
                                         int64_t unit) {
    Params params{};
#pragma unroll
    for (int k = 0; k < C::kParams; ++k) {
      params[k] = load_at<S>(buffers.params, k * sizes.hidden_size + unit);
    }
    return params;
  }

  FUSEDRNN_DEV static void load_gx(const LayerSizes& sizes, const ForwardBuffers& buffers,
                                   const StepRows& step, int64_t row, int64_t unit, Gates& x) {
    const int64_t first = (step.row - buffers.first_row + row) * kGates * sizes.hidden_size + unit;
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
      x[gate] = load_at<A>(buffers.gx, first + gate * sizes.hidden_size);
    }
  }

  // c that enters the step: what the step before left, c_0 or reset_c.
  FUSEDRNN_DEV static A load_c(const LayerSizes& sizes, const ForwardBuffers& buffers,
                               const RowPart& part, int64_t row, int64_t unit) {
    if constexpr (!kHasC) return A(0);
    const int64_t state = row * sizes.hidden_size + unit;
    if (part.resets) return load_or_zero<S>(buffers.reset_c, state);
    if (part.has_before) return load_written<A>(buffers.c_before, state);
    return load_or_zero<S>(buffers.c_0, state);
  }

  // A step's mathematics, on registers alone; the stores follow, h first.
  struct CellForward {
    Values<A, C::kStates> next;
    Values<A, C::kSaved> saved;
  };
  FUSEDRNN_DEV static CellForward forward(const Gates& x, const Gates& r, const Params& params,
                                          A h_before, A c) {
    Values<A, C::kStates> prev;
    prev[0] = h_before;
    if constexpr (kHasC) prev[kC] = c;
    CellForward result;
    C::forward(x, r, params, prev, result.next, result.saved);
    return result;
  }

  // What the step after waits for. Returns h as it is stored.
  FUSEDRNN_DEV static A store_h(const LayerSizes& sizes, const ForwardBuffers& buffers,
                                const StepRows& step, int64_t row, int64_t unit,
                                const CellForward& result) {
    if (buffers.h_raw != nullptr) {
      store_at<S>(buffers.h_raw, row * sizes.hidden_size + unit, result.next[0]);
    } else if (buffers.h_n != nullptr) {
      store_at<S>(buffers.output, (step.row + row) * sizes.output_row_stride + unit,
                  result.next[0]);
    }
    return rounded<S>(result.next[0]);
  }

  // The results of the layer, and what backward needs.
  FUSEDRNN_DEV static void store_results(const LayerSizes& sizes, const ForwardBuffers& buffers,
                                         const StepRows& step, const RowPart& part, int64_t row,
                                         int64_t unit, const CellForward& result) {
    const int64_t state = row * sizes.hidden_size + unit;
    const bool ends = !part.has_after;
    if (buffers.h_raw == nullptr && buffers.h_n != nullptr && ends) {
      store_at<S>(buffers.h_n, state, result.next[0]);
    }
    if constexpr (kHasC) {
      const A c = result.next[kC];
      if (ends && buffers.c_n != nullptr) store_at<S>(buffers.c_n, state, c);
      if (buffers.all_c != nullptr) {
        store_at<S>(buffers.all_c, (step.row + row) * sizes.hidden_size + unit, c);
      }
      if (buffers.kept_c != nullptr && (step.idx + 1) % buffers.kept_steps == 0 && !ends) {
        const int64_t kept_idx = (step.idx + 1) / buffers.kept_steps - 1;
        store_at<A>(buffers.kept_c, kept_idx * sizes.batch_size * sizes.hidden_size + state, c);
      }
    }
    if (kSavedWidth > 0 && buffers.saved != nullptr) {
      const int64_t saved_row = step.row - buffers.saved_first_row + row;
      const int64_t first = saved_row * kSavedWidth * sizes.hidden_size + unit;
#pragma unroll
      for (int k = 0; k < C::kSaved; ++k) {
        store_at<S>(buffers.saved, first + k * sizes.hidden_size, result.saved[k]);
      }
      if constexpr (kHasC) {
        store_at<S>(buffers.saved, first + C::kSaved * sizes.hidden_size, result.next[kC]);
      }
    }
  }

  // Is called instead of forward for a row that the step does not have. Writes zeros, and once the
  // states of a row that has no step at all.
  FUSEDRNN_DEV static void forward_padding(const LayerSizes& sizes, const ForwardBuffers& buffers,
                                           const StepRows& step, const RowPart& part, int64_t row,
                                           int64_t unit) {
    const int64_t state = row * sizes.hidden_size + unit;
    const bool is_end = part.is_empty && step.rows_before == 0;
    if (buffers.h_raw != nullptr) {
      store_at<S>(buffers.h_raw, state, A(0));
    } else if (buffers.h_n != nullptr) {
      store_at<S>(buffers.output, (step.row + row) * sizes.output_row_stride + unit, A(0));
      if (is_end) store_at<S>(buffers.h_n, state, load_or_zero<S>(buffers.h_0, state));
    }
    if constexpr (kHasC) {
      if (buffers.all_c != nullptr) {
        store_at<S>(buffers.all_c, (step.row + row) * sizes.hidden_size + unit, A(0));
      }
      if (is_end && buffers.c_n != nullptr) {
        store_at<S>(buffers.c_n, state, load_or_zero<S>(buffers.c_0, state));
      }
    }
  }

  // The gradient of a row's c, and of the part of its h that does not flow through the product,
  // as the step after left them in the buffers; at the end of the row those of c_n and h_n.
  FUSEDRNN_DEV static A load_dc(const LayerSizes& sizes, const BackwardBuffers& buffers,
                                const RowPart& part, int64_t row, int64_t unit) {
    if constexpr (!kHasC) return A(0);
    const int64_t state = row * sizes.hidden_size + unit;
    if (part.has_after) return load_written<A>(buffers.dc, state);
    return load_or_zero<S>(buffers.grad_c_n, state);
  }
  FUSEDRNN_DEV static A load_carry(const LayerSizes& sizes, const BackwardBuffers& buffers,
                                   const RowPart& part, int64_t row, int64_t unit) {
    const int64_t state = row * sizes.hidden_size + unit;
    if (part.has_after) return load_written<A>(buffers.carry, state);
    return load_or_zero<S>(buffers.grad_h_n, state);
  }

  // What the cell's backward reads of memory besides the gradients of its states.
  struct BackwardValues {
    Values<A, C::kSaved> saved;
    Values<A, C::kStates> prev, next;
    A grad_c;  // of this step's c in the output
  };
  FUSEDRNN_DEV static BackwardValues load_backward(const LayerSizes& sizes,
                                                   const BackwardBuffers& buffers,
                                                   const StepRows& step, const RowPart& part,
                                                   int64_t row, int64_t unit) {
    const int64_t hidden_size = sizes.hidden_size;
    const int64_t saved_row = step.row - buffers.saved_first_row + row;
    const int64_t saved = saved_row * kSavedWidth * hidden_size + unit;
    BackwardValues values{};
#pragma unroll
    for (int k = 0; k < C::kSaved; ++k) {
      values.saved[k] = load_at<S>(buffers.saved, saved + k * hidden_size);
    }
    values.prev[0] = values.next[0] = A(0);
    // A cell that uses h itself is never projected.
    if (buffers.dh == nullptr) {
      const S* h = h_before<S>(sizes, buffers, step, part, row);
      values.prev[0] = load_or_zero<S>(h, unit);
      values.next[0] =
          load_at<S>(buffers.output, (step.row + row) * sizes.output_row_stride + unit);
    }
    if constexpr (kHasC) {
      const int64_t saved_c = C::kSaved * hidden_size;
      values.next[kC] = load_at<S>(buffers.saved, saved + saved_c);
      values.grad_c = load_or_zero<S>(buffers.grad_c, (step.row + row) * hidden_size + unit);
      if (part.resets || !part.has_before) {
        values.prev[kC] =
            load_or_zero<S>(part.resets ? buffers.reset_c : buffers.c_0, row * hidden_size + unit);
      } else {
        const int64_t before_row = step.row_before - buffers.saved_first_row + row;
        const int64_t before = before_row * kSavedWidth * hidden_size + unit;
        values.prev[kC] = load_at<S>(buffers.saved, before + saved_c);
      }
    }
    return values;
  }

  // A step's mathematics, on registers alone; the stores follow, dr first. dh and dc are the
  // gradients of the states that leave the step; dr is as memory rounds it.
  struct CellBackward {
    Gates dx, dr;
    Values<A, C::kStates> dprev;
    Params dparams;
  };
  FUSEDRNN_DEV static CellBackward backward(const BackwardValues& values, const Params& params,
                                            A dh, A dc) {
    Values<A, C::kStates> dnext;
    dnext[0] = dh;
    if constexpr (kHasC) dnext[kC] = dc + values.grad_c;
    CellBackward result;
    C::backward(values.saved, params, values.prev, values.next, dnext, result.dx, result.dr,
                result.dprev, result.dparams);
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) result.dr[gate] = rounded<S>(result.dr[gate]);
    return result;
  }

  // What the step before, which is visited next, waits for.
  FUSEDRNN_DEV static void store_dr(const LayerSizes& sizes, const BackwardBuffers& buffers,
                                    const StepRows& step, int64_t row, int64_t unit,
                                    const CellBackward& result) {
    const int64_t first = (step.row - buffers.first_row + row) * kGates * sizes.hidden_size + unit;
    void* dgr = C::kSplit ? buffers.dgr : buffers.dgx;
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
      store_at<S>(dgr, first + gate * sizes.hidden_size, result.dr[gate]);
    }
  }

  // Everything else. Replaces dh and dc by the gradients of the states that enter the step.
  FUSEDRNN_DEV static void store_gradients(const LayerSizes& sizes, const BackwardBuffers& buffers,
                                           const StepRows& step, const RowPart& part, int64_t row,
                                           int64_t unit, const BackwardValues& values,
                                           const CellBackward& result, A& dh, A& dc) {
    const int64_t hidden_size = sizes.hidden_size;
    const int64_t chunk_row = step.row - buffers.first_row + row;
    if constexpr (C::kSplit) {
      const int64_t first = chunk_row * kGates * hidden_size + unit;
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
        store_at<S>(buffers.dgx, first + gate * hidden_size, result.dx[gate]);
      }
    }
    store_dparams(sizes, buffers, chunk_row, unit, result.dparams);
    if (buffers.h_before != nullptr && buffers.dh == nullptr) {
      store_at<S>(buffers.h_before, chunk_row * hidden_size + unit, values.prev[0]);
    }
    dh = result.dprev[0];
    if constexpr (kHasC) {
      const int64_t state = row * hidden_size + unit;
      dc = pass_reset<S>(buffers.dreset_c, part.resets, state, result.dprev[kC]);
      if (!part.has_before && buffers.grad_c_0 != nullptr) {
        store_at<S>(buffers.grad_c_0, state, dc);
      }
    }
  }

  // Is called instead of backward for a row that the step does not have. Writes zeros where it is
  // padding, and the gradients of the states that the row started from. dh is the gradient of h.
  FUSEDRNN_DEV static void backward_padding(const LayerSizes& sizes, const BackwardBuffers& buffers,
                                            const StepRows& step, const RowPart& part, int64_t row,
                                            int64_t unit, A dh) {
    const int64_t hidden_size = sizes.hidden_size, state = row * hidden_size + unit;
    const bool projected = buffers.dh != nullptr;
    if (!projected && starts_after(step, part) && buffers.grad_h_0 != nullptr) {
      store_at<S>(buffers.grad_h_0, state, dh);
    }
    if (row >= step.rows) return;
    if constexpr (kHasC) {
      if (part.is_empty && step.rows_after == 0 && buffers.grad_c_0 != nullptr) {
        store_at<S>(buffers.grad_c_0, state, load_or_zero<S>(buffers.grad_c_n, state));
      }
    }
    const int64_t chunk_row = step.row - buffers.first_row + row;
    const int64_t first = chunk_row * kGates * hidden_size + unit;
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
      store_at<S>(buffers.dgx, first + gate * hidden_size, A(0));
      if constexpr (C::kSplit) store_at<S>(buffers.dgr, first + gate * hidden_size, A(0));
    }
    store_dparams(sizes, buffers, chunk_row, unit, Params{});
    if (!projected && buffers.h_before != nullptr) {
      store_at<S>(buffers.h_before, chunk_row * hidden_size + unit, A(0));
    }
  }

 private:
  FUSEDRNN_DEV static void store_dparams(const LayerSizes& sizes, const BackwardBuffers& buffers,
                                         int64_t chunk_row, int64_t unit, const Params& dparams) {
    if constexpr (C::kParams > 0) {
      if (buffers.dparams == nullptr) return;
      const int64_t first = chunk_row * C::kParams * sizes.hidden_size + unit;
#pragma unroll
      for (int k = 0; k < C::kParams; ++k) {
        store_at<S>(buffers.dparams, first + k * sizes.hidden_size, dparams[k]);
      }
    }
  }
};

}  // namespace fusedrnn
