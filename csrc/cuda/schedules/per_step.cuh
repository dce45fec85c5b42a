// per_step: one kernel a time step, in blocks of kFusedRows rows and kFusedUnits units, a thread
// for each unit of each row.
//
//   form      recurrent side of the gates (forward), gradient of h (backward)
//   kProduct  read from a product that the runtime computed before
//   kFused    multiplied here, see tile_matmul.cuh
//
// Then the cell. A block without any row in a step, by their lengths, multiplies nothing. With
// projection (kProduct only), forward leaves h before the projection, and BackwardHidden makes the
// gradient of h whose product with weight_hr BackwardPerStep reads.
#pragma once

#include "cuda/device/launch.cuh"
#include "cuda/schedules/step.cuh"
#include "cuda/schedules/tile_matmul.cuh"

namespace fusedrnn {

// The unit and row of a thread of per_step.
struct PerStepThread {
  int64_t first_row, first_unit;  // of the block
  int64_t row, unit;
  int direction;
};
FUSEDRNN_DEV PerStepThread per_step_thread() {
  PerStepThread at;
  at.first_row = block_idx_x() * kFusedRows;
  at.first_unit = block_idx_y() * kFusedUnits;
  at.row = at.first_row + warp_idx();
  at.unit = at.first_unit + lane_idx();
  at.direction = static_cast<int>(block_idx_z());
  return at;
}

// Blocks for so many rows and units of each direction.
inline LaunchShape step_shape(int64_t rows, int64_t units, int directions) {
  LaunchShape shape;
  shape.grid_x = (rows + kFusedRows - 1) / kFusedRows;
  shape.grid_y = (units + kFusedUnits - 1) / kFusedUnits;
  shape.grid_z = directions;
  shape.threads = kFusedThreads;
  return shape;
}

template <template <class> class Cell, class S, StepForm kForm, class Barriers = BlockBarriers>
struct ForwardPerStep {
  using Args = ForwardStepArgs;
  using Step = CellStep<Cell, S>;
  using A = accum_t<S>;
  using MatMul = TileMatMul<A, Step::kGates, WeightLayout::kUnitRows>;
  static constexpr const char* kName =
      kForm == StepForm::kFused ? "per_step/fused forward" : "per_step/product forward";
  static constexpr int kMaxThreads = kFusedThreads;
  static constexpr int64_t kSmemBytes = kForm == StepForm::kFused ? MatMul::kSmemBytes : 0;

  static FUSEDRNN_DEV void run(const Args& args) {
    const PerStepThread at = per_step_thread();
    const ForwardBuffers& buffers = args.buffers[at.direction];
    const StepRows& step = args.step[at.direction];
    if (at.first_row >= step.rows) return;
    const bool is_mine = at.row < step.rows && at.unit < args.sizes.hidden_size;
    const RowPart part = row_part(buffers, step, at.row);

    A product[Step::kGates];
    if constexpr (kForm == StepForm::kFused) {
      multiply(args.sizes, buffers, step, part, at, product);
    }
    if (!is_mine) return;
    if (!part.is_in) {
      Step::forward_padding(args.sizes, buffers, step, part, at.row, at.unit);
      return;
    }
    if constexpr (kForm == StepForm::kProduct) {
      read_product(args.sizes, buffers, part, at, product);
    }

    typename Step::Gates x, r, bias_x, bias_r;
    Step::load_gx(args.sizes, buffers, step, at.row, at.unit, x);
    Step::load_bias(args.sizes, buffers, at.unit, bias_x, bias_r);
#pragma unroll
    for (int gate = 0; gate < Step::kGates; ++gate) {
      x[gate] += bias_x[gate];
      r[gate] = product[gate] + bias_r[gate];
    }
    const A h_before = buffers.h_raw != nullptr
                           ? A(0)
                           : load_h_before<S>(args.sizes, buffers, step, part, at.row, at.unit);
    A c = Step::load_c(args.sizes, buffers, part, at.row, at.unit);
    const auto params = Step::load_params(args.sizes, buffers, at.unit);
    Step::forward(args.sizes, buffers, step, part, at.row, at.unit, x, r, params, h_before, c);
    if constexpr (Step::kHasC) {
      static_cast<A*>(buffers.c)[at.row * args.sizes.hidden_size + at.unit] = c;
    }
  }

 private:
  static FUSEDRNN_DEV void read_product(const LayerSizes& sizes, const ForwardBuffers& buffers,
                                        const RowPart& part, const PerStepThread& at,
                                        A (&product)[Step::kGates]) {
    const void* src = part.has_before ? buffers.product : buffers.start_product;
    if (part.resets) src = buffers.reset_product;
    const int64_t first = at.row * Step::kGates * sizes.hidden_size + at.unit;
#pragma unroll
    for (int gate = 0; gate < Step::kGates; ++gate) {
      product[gate] = load_or_zero<A>(src, first + gate * sizes.hidden_size);
    }
  }

  static FUSEDRNN_DEV void multiply(const LayerSizes& sizes, const ForwardBuffers& buffers,
                                    const StepRows& step, const RowPart& part,
                                    const PerStepThread& at, A (&product)[Step::kGates]) {
    const int64_t hidden_size = sizes.hidden_size;
    const bool may_have_h = at.first_row < step.rows_before || buffers.h_0 != nullptr ||
                            (buffers.reset != nullptr && buffers.reset_h != nullptr);
    // All threads of the block agree on this.
    const bool has_h =
        may_have_h && has_any(buffers, at.first_row, kFusedRows, step.rows, step.time);
    static_assert(MatMul::kThreadLoadsOneRow, "a thread loads h of the row it ends with");
    const S* h = part.is_in ? h_before<S>(sizes, buffers, step, part, at.row) : nullptr;
    MatMul::template run<Barriers>(
        has_h ? hidden_size : 0,
        [&](int64_t k, int gate, int unit) {
          if (at.first_unit + unit >= hidden_size) return A(0);
          const int64_t row = gate * hidden_size + at.first_unit + unit;
          return load_at<S>(buffers.weight_hh, row * hidden_size + k);
        },
        [&](int, int64_t k) { return load_or_zero<S>(h, k); }, product);
  }
};

// The rows that a direction has in a backward step, also those that start in the step after, which
// only deliver grad_h_0.
FUSEDRNN_HD int64_t backward_rows(const StepRows& step) {
  return step.rows > step.rows_after ? step.rows : step.rows_after;
}
inline int64_t backward_rows(const BackwardStepArgs& args, int directions) {
  int64_t rows = 0;
  for (int d = 0; d < directions; ++d) {
    const int64_t of_one = backward_rows(args.step[d]);
    rows = of_one > rows ? of_one : rows;
  }
  return rows;
}

template <template <class> class Cell, class S, StepForm kForm, class Barriers = BlockBarriers>
struct BackwardPerStep {
  using Args = BackwardStepArgs;
  using Step = CellStep<Cell, S>;
  using A = accum_t<S>;
  using MatMul = TileMatMul<A, 1, WeightLayout::kDepthRows>;
  static constexpr const char* kName =
      kForm == StepForm::kFused ? "per_step/fused backward" : "per_step/product backward";
  static constexpr int kMaxThreads = kFusedThreads;
  static constexpr int64_t kSmemBytes = kForm == StepForm::kFused ? MatMul::kSmemBytes : 0;

  static FUSEDRNN_DEV void run(const Args& args) {
    const PerStepThread at = per_step_thread();
    const BackwardBuffers& buffers = args.buffers[at.direction];
    const StepRows& step = args.step[at.direction];
    const int64_t hidden_size = args.sizes.hidden_size;
    const bool projected = buffers.dh != nullptr;
    const int64_t rows = projected ? step.rows : backward_rows(step);
    if (at.first_row >= rows) return;
    const bool is_mine = at.row < rows && at.unit < hidden_size;
    const int64_t state = at.row * hidden_size + at.unit;

    A product[1] = {A(0)};
    if constexpr (kForm == StepForm::kFused) multiply(args.sizes, buffers, step, at, product);
    if (!is_mine) return;
    const RowPart part = row_part(buffers, step, at.row);
    A dh;
    if (projected) {
      dh = part.is_in ? load_at<A>(buffers.projected, state) : A(0);
    } else {
      dh = Step::load_carry(args.sizes, buffers, part, at.row, at.unit);
      if (part.has_after) {
        dh += kForm == StepForm::kProduct ? load_at<A>(buffers.product, state) : product[0];
      }
      dh = pass_reset<S>(buffers.dreset_h, part.resets_after, state, dh);
    }
    if (!part.is_in) {
      Step::backward_padding(args.sizes, buffers, step, part, at.row, at.unit, dh);
      return;
    }
    if (!projected) dh += load_grad_output<S>(args.sizes, buffers, step, at.row, at.unit);

    typename Step::Gates dr;
    A dc = Step::load_dc(args.sizes, buffers, part, at.row, at.unit);
    const auto values = Step::load_backward(args.sizes, buffers, step, part, at.row, at.unit);
    const auto params = Step::load_params(args.sizes, buffers, at.unit);
    Step::backward(args.sizes, buffers, step, part, at.row, at.unit, values, params, dh, dc, dr);
    if (!projected) static_cast<A*>(buffers.carry)[state] = dh;
    if constexpr (Step::kHasC) static_cast<A*>(buffers.dc)[state] = dc;
  }

 private:
  static FUSEDRNN_DEV void multiply(const LayerSizes& sizes, const BackwardBuffers& buffers,
                                    const StepRows& step, const PerStepThread& at,
                                    A (&product)[1]) {
    const int64_t hidden_size = sizes.hidden_size, depth = Step::kGates * hidden_size;
    MatMul::template run<Barriers>(
        has_any(buffers, at.first_row, kFusedRows, step.rows_after, step.time_after) ? depth : 0,
        [&](int64_t k, int, int unit) {
          if (at.first_unit + unit >= hidden_size) return A(0);
          return load_at<S>(buffers.weight_hh, k * hidden_size + at.first_unit + unit);
        },
        [&](int row, int64_t k) {
          // Rows beyond the last one repeat it, and nobody reads their product.
          const int64_t last = step.rows_after - 1, own = at.first_row + row;
          return load_at<S>(buffers.dgr_after, (own < last ? own : last) * depth + k);
        },
        product);
  }
};

// The gradient of projected h, of output_size units, from the product with weight_hh.
template <class S>
struct BackwardHidden {
  using Args = BackwardStepArgs;
  using A = accum_t<S>;
  static constexpr const char* kName = "per_step/product backward, projection";
  static constexpr int kMaxThreads = kFusedThreads;

  static FUSEDRNN_DEV void run(const Args& args) {
    const PerStepThread at = per_step_thread();
    const BackwardBuffers& buffers = args.buffers[at.direction];
    const StepRows& step = args.step[at.direction];
    const int64_t output_size = args.sizes.output_size;
    if (at.row >= backward_rows(step) || at.unit >= output_size) return;
    const int64_t state = at.row * output_size + at.unit;
    const RowPart part = row_part(buffers, step, at.row);
    A dh = part.has_after ? load_at<A>(buffers.product, state)
                          : load_or_zero<S>(buffers.grad_h_n, state);
    dh = pass_reset<S>(buffers.dreset_h, part.resets_after, state, dh);
    if (!part.is_in && starts_after(step, part) && buffers.grad_h_0 != nullptr) {
      store_at<S>(buffers.grad_h_0, state, dh);
    }
    if (at.row >= step.rows) return;
    A h = A(0);
    if (part.is_in) {
      dh += load_grad_output<S>(args.sizes, buffers, step, at.row, at.unit);
      h = load_h_before<S>(args.sizes, buffers, step, part, at.row, at.unit);
    } else {
      dh = A(0);
    }
    const int64_t chunk_element = (step.row - buffers.first_row + at.row) * output_size + at.unit;
    store_at<S>(buffers.dh, chunk_element, dh);
    if (buffers.h_before != nullptr) store_at<S>(buffers.h_before, chunk_element, h);
  }
};

}  // namespace fusedrnn
