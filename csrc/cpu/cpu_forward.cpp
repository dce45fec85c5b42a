// layer_forward_cpu: the input projection of a chunk of time steps by one matrix product,
// then the sweep over the chunk's steps, chunk after chunk; or the sweep does both.
#include "cpu/cpu_forward.h"

#include <algorithm>
#include <cstring>

#include "cpu/cpu_library.h"
#include "cpu/instruction_sets.h"

namespace fusedrnn {

namespace {

// Whether a call of so many steps begins where this thread's last one ended: of a streamed layer
// the weights there are still in cache. No result depends on it.
bool begin_descending(int64_t steps) {
  thread_local bool descending = false;
  const bool begins = descending;
  descending = begins != ((steps & 1) != 0);
  return begins;
}

}  // namespace

ForwardPass::ForwardPass(const LayerForwardArgs& args, const Plan& plan, const KernelTable& table,
                         CpuRuntime& runtime)
    : args_(args),
      layer_(args.shape, plan, table, runtime),
      conversions_(layer_),
      multiplier_(layer_, table) {}

void ForwardPass::run() {
  const LayerShape& shape = args_.shape;
  const bool keeps_c = shape.recompute > 0 && args_.saved != nullptr && layer_.cell.states > 1;
  sweep_.output = args_.output;
  sweep_.output_row_stride = args_.output_row_stride;
  sweep_.saved = shape.recompute > 0 ? nullptr : args_.saved;
  prepare();
  load_states();
  const int64_t part_steps = keeps_c ? layer_.recompute_steps() : shape.seq_len;
  void* kept = args_.saved;
  for (int64_t begin = 0; begin < shape.seq_len; begin += part_steps) {
    if (begin > 0) {
      const int64_t elements = shape.batch_size * layer_.hidden_size;
      std::memcpy(kept, sweep_.c, static_cast<size_t>(elements * accum_bytes(shape.dtype)));
      kept = layer_.accum(kept, elements);
    }
    run_steps(begin, std::min(begin + part_steps, shape.seq_len));
  }
  finish();
}

void ForwardPass::rerun(const Rerun& part) {
  const LayerShape& shape = args_.shape;
  sweep_.saved = part.saved;
  sweep_.saved_first_row = part.saved_first_row;
  if (sweep_.args == nullptr) {
    const int64_t rows = std::min(layer_.recompute_steps() * shape.batch_size, shape.total_rows);
    sweep_.output = layer_.allocate_bytes(rows * layer_.output_size * dtype_bytes(shape.dtype));
    sweep_.output_row_stride = layer_.output_size;
    sweep_.output_is_scratch = true;
    prepare();
  }
  sweep_.output_first_row = layer_.chunk_rows(part.begin, part.end).first;
  load_states();
  if (part.begin > 0) continue_from(part);
  run_steps(part.begin, part.end);
}

void ForwardPass::run_steps(int64_t begin, int64_t end) {
  // Without a product and a copy to hold in cache, and with as many rows in every step, all of the
  // steps are one chunk.
  const bool chunked =
      !multiplies_input_ || !conversions_.rows_are_accum() || args_.shape.batch_sizes != nullptr;
  const auto format = static_cast<int>(args_.weights.format);
  const int64_t chunk_steps = chunked ? layer_.chunk_steps : end - begin;
  for (; begin < end; begin += chunk_steps) {
    sweep_.begin = begin;
    sweep_.end = std::min(begin + chunk_steps, end);
    load_input();
    if (layer_.is_persistent()) {
      layer_.run_region(is_direct() ? layer_.cell_kernels.direct_sweeps[format]
                                    : layer_.cell_kernels.forward_sweep,
                        &sweep_);
    } else {
      for (int64_t s = sweep_.begin; s < sweep_.end; ++s) step(s);
    }
  }
}

void ForwardPass::prepare() {
  const LayerShape& shape = args_.shape;
  const int64_t gate_size = layer_.gate_size, output_size = layer_.output_size;
  sweep_.args = &args_;
  sweep_.steps = layer_.steps;

  multiplies_input_ = layer_.plan.multiplies_input;
  if (!multiplies_input_) {
    weight_ih_ = multiplier_.make_operand(
        Transpose::kYes, gate_size, shape.input_size,
        conversions_.as_accum(args_.weights.weight_ih, gate_size, shape.input_size),
        shape.input_size);
    prepare_gx();
  }
  if (!conversions_.rows_are_accum()) {
    input_copy_ = layer_.allocate(layer_.chunk_max_rows * shape.input_size);
  }
  void* bias_x = conversions_.load_state(args_.weights.bias_ih, 1, gate_size);
  void* bias_r = conversions_.load_state(args_.weights.bias_hh, 1, gate_size);
  if (!layer_.cell.split) layer_.dtype_kernels.sum_columns(bias_r, 0, 1, 0, gate_size, bias_x);
  sweep_.bias_x = bias_x;
  sweep_.bias_r = bias_r;
  sweep_.params =
      conversions_.as_accum(args_.weights.params, layer_.cell.params, layer_.hidden_size);

  sweep_.h_row_stride = output_size;
  for (void*& h : sweep_.h) h = layer_.allocate(shape.batch_size * output_size);
  if (layer_.cell.states > 1) sweep_.c = layer_.allocate(shape.batch_size * layer_.hidden_size);
  if (shape.proj_size > 0) sweep_.h_raw = layer_.allocate(shape.batch_size * layer_.hidden_size);

  if (layer_.is_persistent()) {
    if (is_direct()) {
      sweep_.descending = begin_descending(shape.seq_len);
    } else {
      if (multiplies_input_) {
        sweep_.packed_ih = multiplier_.pack(SweepProduct::kInputs, args_.weights.weight_ih);
      }
      sweep_.packed_hh = multiplier_.pack(SweepProduct::kGates, args_.weights.weight_hh);
      sweep_.packed_hr = multiplier_.pack(SweepProduct::kProjected, args_.weights.weight_hr);
    }
    return;
  }
  weight_hh_ = conversions_.as_accum(args_.weights.weight_hh, gate_size, output_size);
  weight_hr_ = conversions_.as_accum(args_.weights.weight_hr, output_size, layer_.hidden_size);
  if (layer_.cell.split) sweep_.product = product_ = layer_.allocate(shape.batch_size * gate_size);
  if (shape.proj_size > 0) {
    sweep_.projected = projected_ = layer_.allocate(shape.batch_size * output_size);
  }
}

// Training keeps what the cell saves where its input side was, if that has room.
void ForwardPass::prepare_gx() {
  gx_in_saved_ =
      sweep_.saved != nullptr && layer_.is_accum && layer_.cell.saved_width() >= layer_.cell.gates;
  sweep_.gx_row_stride =
      gx_in_saved_ ? layer_.cell.saved_width() * layer_.hidden_size : layer_.gate_size;
  if (!gx_in_saved_) gx_ = layer_.allocate(layer_.chunk_max_rows * layer_.gate_size);
}

// Loads the initial states into both buffers of h: a row may begin at any step.
void ForwardPass::load_states() {
  const LayerShape& shape = args_.shape;
  const SweepSteps& steps = layer_.steps;
  for (void* h : sweep_.h) {
    conversions_.load_state(args_.h_0, shape.batch_size, layer_.output_size, h);
  }
  if (sweep_.c != nullptr) {
    conversions_.load_state(args_.c_0, shape.batch_size, layer_.hidden_size, sweep_.c);
  }
  if (shape.reset == nullptr) return;
  int64_t first_step = 0;
  for (int64_t row = 0; row < shape.batch_size; ++row) {
    while (steps.rows(first_step) <= row) ++first_step;
    for (void* h : sweep_.h) reset_row(first_step, row, h);
  }
}

// Loads the states that entered a step in between, of the rows that had begun before it.
void ForwardPass::continue_from(const Rerun& part) {
  const LayerShape& shape = args_.shape;
  const SweepSteps& steps = layer_.steps;
  const int64_t output_size = layer_.output_size, rows = steps.rows(part.begin - 1);
  void* h = sweep_.h[part.begin & 1];
  const int64_t offset = steps.caller_row(part.begin - 1) * part.output_row_stride;
  layer_.dtype_kernels.load_rows(layer_.storage(part.output, offset), part.output_row_stride,
                                 steps.order, h, output_size, rows, output_size);
  for (int64_t row = 0; row < std::min(rows, steps.rows(part.begin)); ++row) {
    reset_row(part.begin, row, h);
  }
  if (sweep_.c == nullptr) return;
  const int64_t elements = shape.batch_size * layer_.hidden_size;
  std::memcpy(sweep_.c, part.c, static_cast<size_t>(elements * accum_bytes(shape.dtype)));
}

// Replaces the row of h where step s resets it. The cell does so for c.
void ForwardPass::reset_row(int64_t s, int64_t row, void* h) const {
  const uint8_t* reset = args_.shape.reset;
  if (reset == nullptr || reset[layer_.steps.caller_row(s, row)] == 0) return;
  const int64_t output_size = layer_.output_size;
  const void* replacement =
      args_.reset_h == nullptr ? nullptr : layer_.storage(args_.reset_h, row * output_size);
  conversions_.load_state(replacement, 1, output_size, layer_.accum(h, row * output_size));
}

void ForwardPass::load_input() {
  const RowRange chunk = layer_.chunk_rows(sweep_.begin, sweep_.end);
  const int64_t input_size = args_.shape.input_size;
  sweep_.first_row = chunk.first;
  const void* input =
      conversions_.load_steps(args_.input, sweep_.begin, sweep_.end, input_size, input_copy_);
  if (multiplies_input_) {
    sweep_.input = input;
    return;
  }
  sweep_.gx = gx_;
  if (gx_in_saved_) {
    sweep_.gx =
        layer_.accum(sweep_.saved, (chunk.first - sweep_.saved_first_row) * sweep_.gx_row_stride);
  }
  const Product product{&weight_ih_, 0, false, sweep_.gx, sweep_.gx_row_stride};
  multiplier_.matmul(Transpose::kNo, chunk.count, input_size, input, input_size, &product, 1);
}

void ForwardPass::step(int64_t s) {
  const int64_t rows = layer_.steps.rows(s);
  const int64_t output_size = layer_.output_size;
  void* target = product_;
  int64_t target_stride = layer_.gate_size;
  if (target == nullptr) {
    const int64_t gx_row = layer_.steps.row(s) - sweep_.first_row;
    target = layer_.accum(sweep_.gx, gx_row * sweep_.gx_row_stride);
    target_stride = sweep_.gx_row_stride;
  }
  multiplier_.gemm(Transpose::kNo, Transpose::kYes, rows, layer_.gate_size, output_size,
                   sweep_.h[s & 1], sweep_.h_row_stride, weight_hh_, output_size,
                   product_ == nullptr ? 1 : 0, target, target_stride);
  layer_.parallel(rows, layer_.gate_size, [&](int64_t row_begin, int64_t row_end) {
    layer_.cell_kernels.forward_cell(sweep_, s, row_begin, row_end);
  });
  if (args_.shape.proj_size == 0) return;
  multiplier_.gemm(Transpose::kNo, Transpose::kYes, rows, output_size, layer_.hidden_size,
                   sweep_.h_raw, layer_.hidden_size, weight_hr_, layer_.hidden_size, 0, projected_,
                   output_size);
  layer_.parallel(rows, output_size, [&](int64_t row_begin, int64_t row_end) {
    layer_.cell_kernels.forward_project(sweep_, s, row_begin, row_end);
  });
}

// h_n is each row's last output, c_n what the sweep left of c.
void ForwardPass::finish() {
  const LayerShape& shape = args_.shape;
  const SweepSteps& steps = layer_.steps;
  const auto row_bytes = static_cast<size_t>(layer_.output_size * dtype_bytes(shape.dtype));
  int64_t s = shape.seq_len - 1;
  for (int64_t row = 0; row < shape.batch_size; ++row) {
    while (steps.rows(s) <= row) --s;
    const int64_t offset = steps.caller_row(s, row) * args_.output_row_stride;
    std::memcpy(layer_.storage(args_.h_n, row * layer_.output_size),
                layer_.storage(static_cast<const void*>(args_.output), offset), row_bytes);
  }
  if (args_.c_n != nullptr) {
    layer_.dtype_kernels.store_rows(sweep_.c, layer_.hidden_size, args_.c_n, layer_.hidden_size,
                                    shape.batch_size, layer_.hidden_size, false);
  }
}

Status layer_forward_cpu(const LayerForwardArgs& args, const Plan& plan, Isa isa,
                         CpuRuntime& runtime) {
  const KernelTable& table = use_kernel_table(isa);
  if (args.shape.batch_size > 0) ForwardPass(args, plan, table, runtime).run();
  return {};
}

}  // namespace fusedrnn
