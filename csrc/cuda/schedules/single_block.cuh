// single_block: all steps of a chunk in one launch. A block has batch_tile rows of one direction
// and holds weight_hh in its shared memory; blocks never meet. A thread owns one unit with all
// its gates for kRows rows: consecutive threads have consecutive units, and so many row groups
// of unit_threads threads share the weights.
//
// Shared memory: weight_hh as S, then two buffers of A [width, batch_tile], from which one step
// reads while it writes the other: a step has one barrier.
//   forward    weight_hh transposed [H, G * H], buffers of h, width H
//   backward   weight_hh [G * H, H], buffers of the gates' gradients, width G * H
// Steps have batch_size rows each; no projection. With lengths a block leaves out the steps before
// and after those that have one of its rows, and only writes their zeros.
#pragma once

#include "cuda/device/launch.cuh"
#include "cuda/schedules/block.cuh"
#include "cuda/schedules/step.cuh"

namespace fusedrnn {

// Sweep steps from begin up to end.
struct StepRange {
  int64_t begin, end;
};

// step_rows of steps that are known to have batch_size rows each.
FUSEDRNN_DEV StepRows block_step(const Steps& steps, int64_t s) {
  return step_rows({nullptr, steps.seq_len, steps.batch_size, steps.direction}, s);
}

// The rows and unit of a thread, and where its block's shared memory lies.
template <class S, int kRows>
struct SingleBlockThread {
  using A = accum_t<S>;

  FUSEDRNN_DEV SingleBlockThread(int unit_threads, int64_t hidden_size, int64_t weights,
                                 int64_t width)
      : direction(static_cast<int>(block_idx_z())),
        unit(thread_idx() % unit_threads),
        tile_row(thread_idx() / unit_threads * kRows),
        tile(num_threads() / unit_threads * kRows),
        first_row(block_idx_x() * tile + tile_row),
        has_unit(unit < hidden_size),
        buffers_offset((weights * static_cast<int64_t>(sizeof(S)) + 15) / 16 * 16),
        buffer_bytes(width * tile * static_cast<int64_t>(sizeof(A))) {}

  FUSEDRNN_DEV Shared<S> weights() const { return shared_memory<S>(0); }
  // The buffer that sweep step s reads if `offset` is 0, and writes if it is 1.
  FUSEDRNN_DEV Shared<A> buffer(int64_t s, int offset) const {
    return shared_memory<A>(buffers_offset + ((s + offset) & 1) * buffer_bytes);
  }
  // The element of a buffer that is this thread's first row of column k.
  FUSEDRNN_DEV int64_t element(int64_t k) const { return k * tile + tile_row; }

  // The sweep steps of [begin, end) that have a row of the block: the same for all its threads.
  template <class Buffers>
  FUSEDRNN_DEV StepRange active(const Buffers& buffers, const Steps& steps, StepRange range) const {
    if (buffers.lengths == nullptr) return range;
    const int64_t block_row = first_row - tile_row;
    int64_t longest = 0;
    for (int i = 0; i < tile && block_row + i < steps.batch_size; ++i) {
      const int64_t length = ldg(buffers.lengths + block_row + i);
      longest = longest < length ? length : longest;
    }
    if (longest > steps.seq_len) longest = steps.seq_len;
    if (steps.direction == Direction::kForward) {
      if (longest < range.end) range.end = longest < range.begin ? range.begin : longest;
    } else {
      const int64_t first = steps.seq_len - longest;
      if (first > range.begin) range.begin = first > range.end ? range.end : first;
    }
    return range;
  }

  int direction;
  int64_t unit;
  int tile_row;       // first row of this thread within the block
  int tile;           // rows of a block
  int64_t first_row;  // of this thread
  bool has_unit;
  int64_t buffers_offset, buffer_bytes;
};

template <template <class> class Cell, class S, int kRows, class Barriers = BlockBarriers>
struct ForwardSingleBlock {
  using Args = ForwardSweepArgs;
  using Step = CellStep<Cell, S>;
  using A = accum_t<S>;
  using Gates = typename Step::Gates;
  static constexpr int kGates = Step::kGates;
  static constexpr const char* kName = "single_block forward";
  static constexpr int kMaxThreads = kSingleBlockMaxThreads;

  static FUSEDRNN_DEV void run(const Args& args) {
    const LayerSizes& sizes = args.sizes;
    const int64_t hidden_size = sizes.hidden_size;
    const SingleBlockThread<S, kRows> at(args.unit_threads, hidden_size,
                                         kGates * hidden_size * hidden_size, hidden_size);
    const ForwardBuffers& buffers = args.buffers[at.direction];
    const Steps& steps = args.steps[at.direction];
    const StepRange range = at.active(buffers, steps, {args.begin, args.end});
    pad(args, at, {args.begin, range.begin});
    pad(args, at, {range.end, args.end});
    if (range.begin == range.end) return;
    load_weights(buffers, hidden_size, at.weights());

    A c[kRows]{};
    Gates x[kRows]{}, bias_x{}, bias_r{};
    typename Step::Params params{};
    if (at.has_unit) {
      const StepRows step = block_step(steps, range.begin);
      Step::load_bias(sizes, buffers, at.unit, bias_x, bias_r);
      params = Step::load_params(sizes, buffers, at.unit);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const int64_t row = at.first_row + i;
        A h = A(0);
        const RowPart part = row_part(buffers, step, row);
        if (part.is_in) {
          h = load_h_before<S>(sizes, buffers, step, part, row, at.unit);
          c[i] = Step::load_c(sizes, buffers, part, row, at.unit);
          Step::load_gx(sizes, buffers, step, row, at.unit, x[i]);
        }
        at.buffer(range.begin, 0).store(at.element(at.unit) + i, h);
      }
    }
    Barriers::template wait<0>();  // weights and h are there

    for (int64_t s = range.begin; s < range.end; ++s) {
      if (at.has_unit) {
        A product[kRows][kGates];
        multiply(at, hidden_size, s, product);
        // This comes only now, because the product needs the registers.
        const StepRows step = block_step(steps, s), next_step = block_step(steps, s + 1);
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          const int64_t row = at.first_row + i;
          A h = A(0);
          const RowPart part = row_part(buffers, step, row);
          if (part.is_in) {
            Gates r;
#pragma unroll
            for (int gate = 0; gate < kGates; ++gate) {
              x[i][gate] += bias_x[gate];
              r[gate] = product[i][gate] + bias_r[gate];
            }
            const A h_before = at.buffer(s, 0).load(at.element(at.unit) + i);
            const auto result = Step::forward(x[i], r, params, h_before, c[i]);
            h = Step::store_h(sizes, buffers, step, row, at.unit, result);
            Step::store_results(sizes, buffers, step, part, row, at.unit, result);
            if constexpr (Step::kHasC) c[i] = result.next[Step::kC];
          } else if (row < step.rows) {
            Step::forward_padding(sizes, buffers, step, part, row, at.unit);
          }
          if (part.has_after && s + 1 < range.end) {
            Step::load_gx(sizes, buffers, next_step, row, at.unit, x[i]);
            if (part.resets_after || !part.is_in) {
              const int64_t state = row * hidden_size + at.unit;
              h = load_or_zero<S>(part.resets_after ? buffers.reset_h : buffers.h_0, state);
              c[i] = load_or_zero<S>(part.resets_after ? buffers.reset_c : buffers.c_0, state);
            }
          }
          at.buffer(s, 1).store(at.element(at.unit) + i, h);
        }
      }
      // The next step reads what this one wrote, and writes over what it read.
      Barriers::template wait<1>();
    }

    if constexpr (Step::kHasC) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const int64_t row = at.first_row + i;
        if (!at.has_unit || row >= steps.batch_size) continue;
        store_at<A>(buffers.c, row * hidden_size + at.unit, c[i]);
      }
    }
  }

 private:
  // Writes what steps without any row of the block leave.
  static FUSEDRNN_DEV void pad(const Args& args, const SingleBlockThread<S, kRows>& at,
                               StepRange range) {
    const ForwardBuffers& buffers = args.buffers[at.direction];
    for (int64_t s = range.begin; s < range.end && at.has_unit; ++s) {
      const StepRows step = block_step(args.steps[at.direction], s);
      for (int64_t row = at.first_row; row < at.first_row + kRows && row < step.rows; ++row) {
        Step::forward_padding(args.sizes, buffers, step, row_part(buffers, step, row), row,
                              at.unit);
      }
    }
  }

  // A warp moves patches of 8 rows and 4 columns of weight_hh, so that neither memory nor the
  // transposed shared memory is read or written in 32 places at once.
  static FUSEDRNN_DEV void load_weights(const ForwardBuffers& buffers, int64_t hidden_size,
                                        const Shared<S>& weights) {
    constexpr int kPatchRows = 8, kPatchCols = 4;
    const int64_t gate_size = kGates * hidden_size;
    const int64_t patches_across = (hidden_size + kPatchCols - 1) / kPatchCols;
    const int64_t patches = (gate_size + kPatchRows - 1) / kPatchRows * patches_across;
    for (int64_t i = warp_idx(); i < patches; i += num_threads() / kWarpSize) {
      const int64_t row = i / patches_across * kPatchRows + lane_idx() / kPatchCols;
      const int64_t k = i % patches_across * kPatchCols + lane_idx() % kPatchCols;
      if (row >= gate_size || k >= hidden_size) continue;
      weights.store(k * gate_size + row,
                    ldg(static_cast<const S*>(buffers.weight_hh) + row * hidden_size + k));
    }
  }

  static FUSEDRNN_DEV void multiply(const SingleBlockThread<S, kRows>& at, int64_t hidden_size,
                                    int64_t s, A (&product)[kRows][kGates]) {
    const Shared<S> weights = at.weights().offset(at.unit);
    const Shared<A> h = at.buffer(s, 0);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) product[i][gate] = A(0);
    }
#pragma unroll 4
    for (int64_t k = 0; k < hidden_size; ++k) {
      A row[kRows];
      load_consecutive(h, at.element(k), row);
#pragma unroll
      for (int gate = 0; gate < kGates; ++gate) {
        const A weight = to_accum(weights.load((k * kGates + gate) * hidden_size));
#pragma unroll
        for (int i = 0; i < kRows; ++i) product[i][gate] += row[i] * weight;
      }
    }
  }
};

template <template <class> class Cell, class S, int kRows, class Barriers = BlockBarriers>
struct BackwardSingleBlock {
  using Args = BackwardSweepArgs;
  using Step = CellStep<Cell, S>;
  using A = accum_t<S>;
  using Gates = typename Step::Gates;
  static constexpr int kGates = Step::kGates;
  static constexpr const char* kName = "single_block backward";
  static constexpr int kMaxThreads = kSingleBlockMaxThreads;
  // How far the product's loop is unrolled; params need registers as well, and none may spill.
  static constexpr int kUnroll = Step::C::kParams > 0 ? 4 : 6;

  static FUSEDRNN_DEV void run(const Args& args) {
    const LayerSizes& sizes = args.sizes;
    const int64_t hidden_size = sizes.hidden_size, gate_size = kGates * hidden_size;
    const SingleBlockThread<S, kRows> at(args.unit_threads, hidden_size, gate_size * hidden_size,
                                         gate_size);
    const BackwardBuffers& buffers = args.buffers[at.direction];
    const Steps& steps = args.steps[at.direction];
    StepRange range = at.active(buffers, steps, {args.begin, args.end});
    // A row that starts in the first active step has the gradient of its h_0 in the step before.
    if (range.begin > args.begin) --range.begin;
    pad(args, at, {args.begin, range.begin});
    pad(args, at, {range.end, args.end});
    if (range.begin == range.end) return;
    load_weights(buffers, gate_size * hidden_size, at.weights());

    A carry[kRows]{}, dc[kRows]{};
    if (at.has_unit) {
      const StepRows step = block_step(steps, range.end - 1);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const int64_t row = at.first_row + i;
        Gates dr{};
        if (row < step.rows) {
          const RowPart part = row_part(buffers, step, row);
          carry[i] = Step::load_carry(sizes, buffers, part, row, at.unit);
          dc[i] = Step::load_dc(sizes, buffers, part, row, at.unit);
          if (part.has_after) load_dr(buffers, gate_size, hidden_size, row, at.unit, dr);
        }
        store_dr(at, hidden_size, range.end - 1, 0, i, dr);
      }
    }
    Barriers::template wait<0>();  // weights and the gradients of the step after are there

    for (int64_t s = range.end - 1; s >= range.begin; --s) {
      if (at.has_unit) {
        typename Step::BackwardValues values[kRows]{};
        A dh[kRows]{};
        const StepRows step = block_step(steps, s);
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          const int64_t row = at.first_row + i;
          const RowPart part = row_part(buffers, step, row);
          if (!part.is_in) continue;
          values[i] = Step::load_backward(sizes, buffers, step, part, row, at.unit);
          dh[i] = load_grad_output<S>(sizes, buffers, step, row, at.unit);
        }
        A product[kRows];
        multiply(at, gate_size, hidden_size, s, product);
        // Loaded again in each step: registers that hold them through the product spill.
        const auto params = Step::load_params(sizes, buffers, at.unit);
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          const int64_t row = at.first_row + i;
          Gates dr{};
          if (row < step.rows) {
            const RowPart part = row_part(buffers, step, row);
            const A entering = pass_reset<S>(buffers.dreset_h, part.resets_after,
                                             row * hidden_size + at.unit, carry[i] + product[i]);
            if (part.is_in) {
              carry[i] = entering + dh[i];
              const auto result = Step::backward(values[i], params, carry[i], dc[i]);
              // The gradients of the params come first: they hold the most registers.
              Step::store_gradients(sizes, buffers, step, part, row, at.unit, values[i], result,
                                    carry[i], dc[i]);
              Step::store_dr(sizes, buffers, step, row, at.unit, result);
              dr = result.dr;
            } else {
              Step::backward_padding(sizes, buffers, step, part, row, at.unit, entering);
            }
          }
          store_dr(at, hidden_size, s, 1, i, dr);
        }
      }
      // The next step reads what this one wrote, and writes over what it read.
      Barriers::template wait<1>();
    }
    if (at.has_unit) finish(args, at, range, carry, dc);
  }

 private:
  // Writes what steps leave that neither have a row of the block nor come before the start of one.
  static FUSEDRNN_DEV void pad(const Args& args, const SingleBlockThread<S, kRows>& at,
                               StepRange range) {
    const BackwardBuffers& buffers = args.buffers[at.direction];
    for (int64_t s = range.begin; s < range.end && at.has_unit; ++s) {
      const StepRows step = block_step(args.steps[at.direction], s);
      for (int64_t row = at.first_row; row < at.first_row + kRows && row < step.rows; ++row) {
        const RowPart part = row_part(buffers, step, row);
        Step::backward_padding(args.sizes, buffers, step, part, row, at.unit,
                               Step::load_carry(args.sizes, buffers, part, row, at.unit));
      }
    }
  }

  static FUSEDRNN_DEV void load_weights(const BackwardBuffers& buffers, int64_t elements,
                                        const Shared<S>& weights) {
    for (int64_t i = thread_idx(); i < elements; i += num_threads()) {
      weights.store(i, ldg(static_cast<const S*>(buffers.weight_hh) + i));
    }
  }

  static FUSEDRNN_DEV void load_dr(const BackwardBuffers& buffers, int64_t gate_size,
                                   int64_t hidden_size, int64_t row, int64_t unit, Gates& dr) {
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
      dr[gate] = load_written<S>(buffers.dgr_after, row * gate_size + gate * hidden_size + unit);
    }
  }

  static FUSEDRNN_DEV void store_dr(const SingleBlockThread<S, kRows>& at, int64_t hidden_size,
                                    int64_t s, int offset, int row, const Gates& dr) {
#pragma unroll
    for (int gate = 0; gate < kGates; ++gate) {
      at.buffer(s, offset).store(at.element(gate * hidden_size + at.unit) + row, dr[gate]);
    }
  }

  static FUSEDRNN_DEV void multiply(const SingleBlockThread<S, kRows>& at, int64_t gate_size,
                                    int64_t hidden_size, int64_t s, A (&product)[kRows]) {
    const Shared<S> weights = at.weights().offset(at.unit);
    const Shared<A> dgr = at.buffer(s, 0);
#pragma unroll
    for (int i = 0; i < kRows; ++i) product[i] = A(0);
#pragma unroll kUnroll
    for (int64_t k = 0; k < gate_size; ++k) {
      A row[kRows];
      load_consecutive(dgr, at.element(k), row);
      const A weight = to_accum(weights.load(k * hidden_size));
#pragma unroll
      for (int i = 0; i < kRows; ++i) product[i] += row[i] * weight;
    }
  }

  // Stores what the chunk before, or the gradients of the initial states, need of the first step.
  static FUSEDRNN_DEV void finish(const Args& args, const SingleBlockThread<S, kRows>& at,
                                  const StepRange& range, const A (&carry)[kRows],
                                  const A (&dc)[kRows]) {
    const BackwardBuffers& buffers = args.buffers[at.direction];
    const int64_t hidden_size = args.sizes.hidden_size;
    const bool delivers =
        range.begin == 0 && (buffers.grad_h_0 != nullptr || buffers.dreset_h != nullptr);
    const StepRows step_before = block_step(args.steps[at.direction], range.begin - 1);
    A product[kRows];
    if (delivers) multiply(at, kGates * hidden_size, hidden_size, range.begin - 1, product);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int64_t row = at.first_row + i;
      if (row >= args.steps[at.direction].batch_size) continue;
      const int64_t state = row * hidden_size + at.unit;
      const RowPart part = row_part(buffers, step_before, row);
      if (delivers && part.has_after) {
        const A dh =
            pass_reset<S>(buffers.dreset_h, part.resets_after, state, carry[i] + product[i]);
        if (buffers.grad_h_0 != nullptr) store_at<S>(buffers.grad_h_0, state, dh);
      }
      store_at<A>(buffers.carry, state, carry[i]);
      if constexpr (Step::kHasC) store_at<A>(buffers.dc, state, dc[i]);
    }
  }
};

}  // namespace fusedrnn
