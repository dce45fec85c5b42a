// per_step: one kernel a time step, in blocks of some rows and units, a thread for each unit of
// each row, or for two.
//
//   MatMul        recurrent side of the gates (forward), gradient of h (backward)
//   ReadProduct   read from a product that the runtime computed before
//   TileMatMul    multiplied here, see tile_matmul.cuh
//   TensorMatMul  multiplied here, see tensor_matmul.cuh
//
// Then the cell. A kernel that multiplies may begin before the step before has ended: it loads what
// is no result of a step, and waits for the rest. A block without any row in a step, by their
// lengths, multiplies nothing. With projection (ReadProduct only), forward leaves h before the
// projection, and BackwardHidden makes the gradient of h whose product with weight_hr
// BackwardPerStep reads.
#pragma once

#include <type_traits>

#include "cuda/device/launch.cuh"
#include "cuda/device/programmatic.cuh"
#include "cuda/schedules/step.cuh"
#include "cuda/schedules/tensor_matmul.cuh"
#include "cuda/schedules/tile_matmul.cuh"

namespace fusedrnn {

// A kernel of kFusedThreads threads that multiplies nothing, a thread for each unit of each row.
struct ReadProduct {
  static constexpr int kRows = kFusedRows, kUnits = kFusedUnits, kResidentBlocks = 1;
  static constexpr int64_t kSmemBytes = 0;
};
template <class MatMul>
constexpr bool kMultiplies = !std::is_same_v<MatMul, ReadProduct>;

// The cells of a thread: consecutive threads have consecutive units.
template <class MatMul>
struct BlockCells {
  static constexpr int kCells =
      (MatMul::kRows * MatMul::kUnits + kFusedThreads - 1) / kFusedThreads;
  static constexpr int kStride = kFusedThreads / MatMul::kUnits;  // rows between a thread's cells

  FUSEDRNN_DEV BlockCells()
      : first_row(block_idx_x() * MatMul::kRows), first_unit(block_idx_y() * MatMul::kUnits) {}
  FUSEDRNN_DEV static int block_row(int i) { return thread_idx() / MatMul::kUnits + i * kStride; }
  FUSEDRNN_DEV static int block_unit() { return thread_idx() % MatMul::kUnits; }
  FUSEDRNN_DEV int64_t row(int i) const { return first_row + block_row(i); }
  FUSEDRNN_DEV int64_t unit() const { return first_unit + block_unit(); }
  FUSEDRNN_DEV bool has(int i, int64_t rows, int64_t units) const {
    return block_row(i) < MatMul::kRows && row(i) < rows && unit() < units;
  }

  int64_t first_row, first_unit;
};

// Blocks for so many rows and units of each direction.
template <class MatMul>
LaunchShape step_shape(int64_t rows, int64_t units, int directions) {
  LaunchShape shape;
  shape.grid_x = (rows + MatMul::kRows - 1) / MatMul::kRows;
  shape.grid_y = (units + MatMul::kUnits - 1) / MatMul::kUnits;
  shape.grid_z = directions;
  shape.threads = kFusedThreads;
  shape.smem_bytes = MatMul::kSmemBytes;
  return shape;
}

template <template <class> class Cell, class S, class MatMul, class Barriers = BlockBarriers>
struct ForwardPerStep {
  using Args = ForwardStepArgs;
  using Step = CellStep<Cell, S>;
  using A = accum_t<S>;
  using Cells = BlockCells<MatMul>;
  static constexpr const char* kName =
      kMultiplies<MatMul> ? "per_step/fused forward" : "per_step/product forward";
  static constexpr int kMaxThreads = kFusedThreads;
  static constexpr int kResidentBlocks = MatMul::kResidentBlocks;
  static constexpr bool kProgrammatic = kMultiplies<MatMul>;

  static FUSEDRNN_DEV void run(const Args& args) {
    const Cells cells;
    const int direction = static_cast<int>(block_idx_z());
    const ForwardBuffers& buffers = args.buffers[direction];
    const StepRows& step = args.step[direction];
    const LayerSizes& sizes = args.sizes;
    const int64_t unit = cells.unit();
    if constexpr (kProgrammatic) launch_dependents();
    if (cells.first_row >= step.rows) {
      if constexpr (kProgrammatic) wait_for_launch_before();
      return;
    }

    RowPart part[Cells::kCells]{};
    typename Step::Gates x[Cells::kCells]{}, r[Cells::kCells]{};
    typename Step::Params params{};
    A c[Cells::kCells]{}, h_before[Cells::kCells]{};
    const auto load_constants = [&] {
#pragma unroll
      for (int i = 0; i < Cells::kCells; ++i) {
        part[i] = row_part(buffers, step, cells.row(i));
        if (!cells.has(i, step.rows, sizes.hidden_size) || !part[i].is_in) continue;
        Step::load_gx(sizes, buffers, step, cells.row(i), unit, x[i]);
        typename Step::Gates bias_x;
        Step::load_bias(sizes, buffers, unit, bias_x, r[i]);
#pragma unroll
        for (int gate = 0; gate < Step::kGates; ++gate) x[i][gate] += bias_x[gate];
        params = Step::load_params(sizes, buffers, unit);
      }
    };
    const auto load_states = [&] {
#pragma unroll
      for (int i = 0; i < Cells::kCells; ++i) {
        if (!cells.has(i, step.rows, sizes.hidden_size) || !part[i].is_in) continue;
        const int64_t row = cells.row(i);
        c[i] = Step::load_c(sizes, buffers, part[i], row, unit);
        h_before[i] = buffers.h_raw != nullptr
                          ? A(0)
                          : load_h_before<S>(sizes, buffers, step, part[i], row, unit);
      }
    };

    bool has_h = false;
    if constexpr (kMultiplies<MatMul>) {
      has_h = multiply(sizes, buffers, step, cells, load_constants, load_states);
    } else {
      load_constants();
      load_states();
    }
#pragma unroll
    for (int i = 0; i < Cells::kCells; ++i) {
      if (!cells.has(i, step.rows, sizes.hidden_size)) continue;
      const int64_t row = cells.row(i);
      if (!part[i].is_in) {
        Step::forward_padding(sizes, buffers, step, part[i], row, unit);
        continue;
      }
      A product[Step::kGates] = {};
      if constexpr (kMultiplies<MatMul>) {
        if (has_h) MatMul::add_sums(Cells::block_row(i), Cells::block_unit(), product);
      } else {
        read_product(sizes, buffers, part[i], row, unit, product);
      }
#pragma unroll
      for (int gate = 0; gate < Step::kGates; ++gate) r[i][gate] += product[gate];
      const auto result = Step::forward(x[i], r[i], params, h_before[i], c[i]);
      Step::store_h(sizes, buffers, step, row, unit, result);
      if constexpr (Step::kHasC) {
        store_at<A>(buffers.c, row * sizes.hidden_size + unit, result.next[Step::kC]);
      }
      Step::store_results(sizes, buffers, step, part[i], row, unit, result);
    }
  }

 private:
  static FUSEDRNN_DEV void read_product(const LayerSizes& sizes, const ForwardBuffers& buffers,
                                        const RowPart& part, int64_t row, int64_t unit,
                                        A (&product)[Step::kGates]) {
    const void* src = part.has_before ? buffers.product : buffers.start_product;
    if (part.resets) src = buffers.reset_product;
    const int64_t first = row * Step::kGates * sizes.hidden_size + unit;
#pragma unroll
    for (int gate = 0; gate < Step::kGates; ++gate) {
      product[gate] = load_or_zero<A>(src, first + gate * sizes.hidden_size);
    }
  }

  // Returns whether there was an h to multiply, on which all threads of the block agree.
  template <class LoadConstants, class LoadStates>
  static FUSEDRNN_DEV bool multiply(const LayerSizes& sizes, const ForwardBuffers& buffers,
                                    const StepRows& step, const Cells& cells,
                                    const LoadConstants& load_constants,
                                    const LoadStates& load_states) {
    const int64_t units = sizes.hidden_size - cells.first_unit;
    MatMul matmul(static_cast<const S*>(buffers.weight_hh) + cells.first_unit * sizes.hidden_size,
                  sizes.hidden_size, sizes.hidden_size, units, sizes.hidden_size);
    matmul.load_first_weights();
    load_constants();
    const S* rows[MatMul::kLaneRows];
#pragma unroll
    for (int i = 0; i < MatMul::kLaneRows; ++i) {
      const int64_t row = cells.first_row + MatMul::lane_row(i);
      const RowPart part = row_part(buffers, step, row);
      rows[i] = part.is_in ? h_before<S>(sizes, buffers, step, part, row) : nullptr;
    }
    const bool may_have_h = cells.first_row < step.rows_before || buffers.h_0 != nullptr ||
                            (buffers.reset != nullptr && buffers.reset_h != nullptr);
    const bool has_h =
        may_have_h && has_any(buffers, cells.first_row, MatMul::kRows, step.rows, step.time);
    Barriers::wait_for_launch();
    load_states();
    if (!has_h) return false;
    matmul.template multiply<Barriers>(rows);
    return true;
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

template <template <class> class Cell, class S, class MatMul, class Barriers = BlockBarriers>
struct BackwardPerStep {
  using Args = BackwardStepArgs;
  using Step = CellStep<Cell, S>;
  using A = accum_t<S>;
  using Cells = BlockCells<MatMul>;
  static constexpr const char* kName =
      kMultiplies<MatMul> ? "per_step/fused backward" : "per_step/product backward";
  static constexpr int kMaxThreads = kFusedThreads;
  static constexpr int kResidentBlocks = MatMul::kResidentBlocks;
  static constexpr bool kProgrammatic = kMultiplies<MatMul>;

  static FUSEDRNN_DEV void run(const Args& args) {
    const Cells cells;
    const int direction = static_cast<int>(block_idx_z());
    const BackwardBuffers& buffers = args.buffers[direction];
    const StepRows& step = args.step[direction];
    const LayerSizes& sizes = args.sizes;
    const int64_t unit = cells.unit();
    const bool projected = buffers.dh != nullptr;
    const int64_t rows = projected ? step.rows : backward_rows(step);
    if constexpr (kProgrammatic) launch_dependents();
    if (cells.first_row >= rows) {
      if constexpr (kProgrammatic) wait_for_launch_before();
      return;
    }

    RowPart part[Cells::kCells]{};
    typename Step::BackwardValues values[Cells::kCells]{};
    typename Step::Params params{};
    A grad_output[Cells::kCells]{}, carry[Cells::kCells]{}, dc[Cells::kCells]{};
    const auto load_constants = [&] {
#pragma unroll
      for (int i = 0; i < Cells::kCells; ++i) {
        const int64_t row = cells.row(i);
        part[i] = row_part(buffers, step, row);
        if (!cells.has(i, rows, sizes.hidden_size) || !part[i].is_in) continue;
        values[i] = Step::load_backward(sizes, buffers, step, part[i], row, unit);
        if (!projected) grad_output[i] = load_grad_output<S>(sizes, buffers, step, row, unit);
        params = Step::load_params(sizes, buffers, unit);
      }
    };
    const auto load_states = [&] {
#pragma unroll
      for (int i = 0; i < Cells::kCells; ++i) {
        if (!cells.has(i, rows, sizes.hidden_size)) continue;
        const int64_t row = cells.row(i);
        carry[i] = projected ? A(0) : Step::load_carry(sizes, buffers, part[i], row, unit);
        dc[i] = Step::load_dc(sizes, buffers, part[i], row, unit);
      }
    };

    bool has_product = false;
    if constexpr (kMultiplies<MatMul>) {
      has_product = multiply(sizes, buffers, step, cells, load_constants, load_states);
    } else {
      load_constants();
      load_states();
    }
#pragma unroll
    for (int i = 0; i < Cells::kCells; ++i) {
      if (!cells.has(i, rows, sizes.hidden_size)) continue;
      const int64_t row = cells.row(i), state = row * sizes.hidden_size + unit;
      A dh = carry[i];
      if (projected) {
        dh = part[i].is_in ? load_at<A>(buffers.projected, state) : A(0);
      } else {
        if (part[i].has_after) {
          if constexpr (kMultiplies<MatMul>) {
            A product[1] = {};
            if (has_product) MatMul::add_sums(Cells::block_row(i), Cells::block_unit(), product);
            dh += product[0];
          } else {
            dh += load_at<A>(buffers.product, state);
          }
        }
        dh = pass_reset<S>(buffers.dreset_h, part[i].resets_after, state, dh);
      }
      if (!part[i].is_in) {
        Step::backward_padding(sizes, buffers, step, part[i], row, unit, dh);
        continue;
      }
      dh += grad_output[i];
      const auto result = Step::backward(values[i], params, dh, dc[i]);
      Step::store_dr(sizes, buffers, step, row, unit, result);
      Step::store_gradients(sizes, buffers, step, part[i], row, unit, values[i], result, dh, dc[i]);
      if (!projected) store_at<A>(buffers.carry, state, dh);
      if constexpr (Step::kHasC) store_at<A>(buffers.dc, state, dc[i]);
    }
  }

 private:
  template <class LoadConstants, class LoadStates>
  static FUSEDRNN_DEV bool multiply(const LayerSizes& sizes, const BackwardBuffers& buffers,
                                    const StepRows& step, const Cells& cells,
                                    const LoadConstants& load_constants,
                                    const LoadStates& load_states) {
    const int64_t depth = Step::kGates * sizes.hidden_size;
    MatMul matmul(static_cast<const S*>(buffers.weight_hh) + cells.first_unit, 0, sizes.hidden_size,
                  sizes.hidden_size - cells.first_unit, depth);
    matmul.load_first_weights();
    load_constants();
    const S* rows[MatMul::kLaneRows];
#pragma unroll
    for (int i = 0; i < MatMul::kLaneRows; ++i) {
      const int64_t row = cells.first_row + MatMul::lane_row(i);
      const S* dgr = static_cast<const S*>(buffers.dgr_after);
      rows[i] = row < step.rows_after ? dgr + row * depth : nullptr;
    }
    const bool has_product =
        has_any(buffers, cells.first_row, MatMul::kRows, step.rows_after, step.time_after);
    Barriers::wait_for_launch();
    load_states();
    if (!has_product) return false;
    matmul.template multiply<Barriers>(rows);
    return true;
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
    const BlockCells<ReadProduct> cells;
    const int direction = static_cast<int>(block_idx_z());
    const BackwardBuffers& buffers = args.buffers[direction];
    const StepRows& step = args.step[direction];
    const int64_t output_size = args.sizes.output_size;
    const int64_t row = cells.row(0), unit = cells.unit();
    if (!cells.has(0, backward_rows(step), output_size)) return;
    const int64_t state = row * output_size + unit;
    const RowPart part = row_part(buffers, step, row);
    A dh = part.has_after ? load_at<A>(buffers.product, state)
                          : load_or_zero<S>(buffers.grad_h_n, state);
    dh = pass_reset<S>(buffers.dreset_h, part.resets_after, state, dh);
    if (!part.is_in && starts_after(step, part) && buffers.grad_h_0 != nullptr) {
      store_at<S>(buffers.grad_h_0, state, dh);
    }
    if (row >= step.rows) return;
    A h = A(0);
    if (part.is_in) {
      dh += load_grad_output<S>(args.sizes, buffers, step, row, unit);
      h = load_h_before<S>(args.sizes, buffers, step, part, row, unit);
    } else {
      dh = A(0);
    }
    const int64_t chunk_element = (step.row - buffers.first_row + row) * output_size + unit;
    store_at<S>(buffers.dh, chunk_element, dh);
    if (buffers.h_before != nullptr) store_at<S>(buffers.h_before, chunk_element, h);
  }
};

}  // namespace fusedrnn
