// layer_backward_cpu: chunks of time steps from the last to the first; in each the sweep
// writes the gradients of the gates, from which matrix products over all rows of the chunk
// make the gradients of input and weights. Sums have a fixed order: same inputs, same bits.
// Under recompute, the forward pass first runs again over the chunks since a state was kept.
#include <algorithm>
#include <cstring>
#include <optional>

#include "cpu/cpu_forward.h"
#include "cpu/cpu_library.h"
#include "cpu/instruction_sets.h"

namespace fusedrnn {

namespace {

class Backward {
 public:
  Backward(const LayerBackwardArgs& args, const Plan& plan, const Plan& forward_plan,
           const KernelTable& table, CpuRuntime& runtime)
      : args_(args),
        layer_(args.shape, plan, table, runtime),
        conversions_(layer_),
        multiplier_(layer_, table) {
    // A cell that saves nothing has nothing to compute again.
    if (args.shape.recompute == 0 || layer_.cell.saved_width() == 0) return;
    forward_args_ = forward_inputs(args);
    forward_.emplace(forward_args_, forward_plan, table, runtime);
  }

  void run() {
    prepare();
    for (int64_t end = args_.shape.seq_len; end > 0; end = sweep_.begin) {
      sweep_.end = end;
      sweep_.begin = (end - 1) / layer_.chunk_steps * layer_.chunk_steps;
      if (forward_.has_value()) recompute_saved();
      chunk_ = layer_.chunk_rows(sweep_.begin, sweep_.end);
      sweep_.first_row = chunk_.first;
      if (layer_.is_persistent()) {
        layer_.run_region(layer_.cell_kernels.backward_sweep, &sweep_);
      } else {
        for (int64_t s = sweep_.end - 1; s >= sweep_.begin; --s) step(s);
        if (sweep_.begin == 0 && wants_first_h_) step(-1);
      }
      multiply_chunk();
      has_sums_ = true;
      keep_first_step();
    }
    finish();
  }

 private:
  void prepare() {
    const LayerShape& shape = args_.shape;
    const int64_t gate_size = layer_.gate_size, output_size = layer_.output_size;
    const int64_t hidden_size = layer_.hidden_size, max_rows = layer_.chunk_max_rows;
    sweep_.args = &args_;
    sweep_.steps = layer_.steps;
    if (!forward_.has_value()) sweep_.saved = args_.saved;
    if (shape.reset != nullptr) {
      sweep_.dreset_h = layer_.allocate_zeros(shape.batch_size * output_size);
      if (layer_.cell.states > 1) {
        sweep_.dreset_c = layer_.allocate_zeros(shape.batch_size * hidden_size);
      }
    }
    wants_first_h_ = args_.grad_h_0 != nullptr || sweep_.dreset_h != nullptr;
    sweep_.dgx = layer_.allocate(max_rows * gate_size);
    sweep_.dgr = layer_.cell.split ? layer_.allocate(max_rows * gate_size) : sweep_.dgx;
    sweep_.dgr_end = dgr_end_ = layer_.allocate(shape.batch_size * gate_size);
    sweep_.carry = conversions_.load_state(args_.grad_h_n, shape.batch_size, output_size);
    if (layer_.cell.states > 1) {
      sweep_.dc = conversions_.load_state(args_.grad_c_n, shape.batch_size, hidden_size);
    }
    if (shape.proj_size > 0) sweep_.dh = layer_.allocate(max_rows * output_size);
    const int64_t param_size = layer_.cell.params * hidden_size;
    sweep_.params = conversions_.as_accum(args_.weights.params, layer_.cell.params, hidden_size);
    if (args_.grad_params != nullptr) {
      sweep_.dparams = layer_.allocate(max_rows * param_size);
      sums_params_ = layer_.allocate_zeros(param_size);
    }

    grad_weight_ih_ = accumulator(args_.grad_weight_ih, gate_size * shape.input_size);
    grad_weight_hh_ = accumulator(args_.grad_weight_hh, gate_size * output_size);
    grad_weight_hr_ = accumulator(args_.grad_weight_hr, output_size * hidden_size);
    prepare_recurrent_weights();
    if (args_.grad_input != nullptr) {
      weight_ih_ = multiplier_.make_operand(
          Transpose::kNo, shape.input_size, gate_size,
          conversions_.as_accum(args_.weights.weight_ih, gate_size, shape.input_size),
          shape.input_size);
    }
    const bool has_grad_bias = args_.grad_bias_ih != nullptr || args_.grad_bias_hh != nullptr;
    if (has_grad_bias) sums_x_ = layer_.allocate_zeros(gate_size);
    sums_r_ = has_grad_bias && layer_.cell.split ? layer_.allocate_zeros(gate_size) : sums_x_;
    prepare_rows();
  }

  // Computes again what forward would have saved of the chunk, and the c that its first step
  // started from.
  void recompute_saved() {
    const LayerShape& shape = args_.shape;
    const SweepSteps& steps = layer_.steps;
    const int64_t part_steps = layer_.recompute_steps();
    const int64_t begin = sweep_.begin / part_steps * part_steps;
    if (sweep_.saved != nullptr && begin == saved_begin_) return;
    saved_begin_ = begin;
    const int64_t hidden_size = layer_.hidden_size, width = layer_.cell.saved_width();
    if (recomputed_ == nullptr) {
      const int64_t max_rows = std::min((part_steps + 1) * shape.batch_size, shape.total_rows);
      recomputed_ =
          layer_.allocate_bytes(max_rows * width * hidden_size * dtype_bytes(shape.dtype));
    }
    const int64_t end = std::min(begin + part_steps, shape.seq_len);
    const RowRange rows = layer_.chunk_rows(std::max<int64_t>(begin - 1, 0), end);
    const int64_t kept_part = (begin / part_steps - 1) * shape.batch_size * hidden_size;
    const bool has_c = begin > 0 && layer_.cell.states > 1;
    const void* c = has_c ? layer_.accum(args_.saved, kept_part) : nullptr;
    forward_->rerun(
        {begin, end, args_.output, args_.output_row_stride, c, recomputed_, rows.first});
    sweep_.saved = recomputed_;
    sweep_.saved_first_row = rows.first;
    if (!has_c) return;
    const int64_t row = steps.row(begin - 1) - rows.first;
    layer_.dtype_kernels.store_rows(
        c, hidden_size, layer_.storage(recomputed_, (row * width + width - 1) * hidden_size),
        width * hidden_size, steps.rows(begin - 1), hidden_size, false);
  }

  // Prepares what holds the rows of a chunk, each as wide as the widest that it will hold.
  void prepare_rows() {
    const int64_t input_size = args_.shape.input_size, output_size = layer_.output_size;
    const int64_t hidden_size = layer_.hidden_size;
    const auto cols_if = [](bool wanted, int64_t cols) { return wanted ? cols : 0; };
    const bool wants_ih = grad_weight_ih_ != nullptr, wants_hh = grad_weight_hh_ != nullptr;
    const int64_t hr_cols = cols_if(grad_weight_hr_ != nullptr, hidden_size);
    const bool copies_input =
        !conversions_.rows_are_accum() && (wants_ih || args_.grad_input != nullptr);
    const int64_t copy_cols = std::max({cols_if(copies_input, input_size),
                                        cols_if(wants_hh && !h_is_output(), output_size), hr_cols});
    if (copy_cols > 0) copy_ = layer_.allocate(layer_.chunk_max_rows * copy_cols);
    const int64_t cols = std::max(cols_if(wants_ih, input_size), hr_cols);
    if (cols > 0) rows_ = multiplier_.make_rows_operand(cols);
    if (wants_hh) h_before_ = multiplier_.make_rows_operand(output_size);
  }

  // Whether the h that steps after the first start from are rows of the output, as A.
  bool h_is_output() const {
    return conversions_.rows_are_accum() && layer_.steps.offsets == nullptr &&
           args_.shape.reset == nullptr;
  }

  void prepare_recurrent_weights() {
    const LayerWeights& weights = args_.weights;
    if (layer_.is_persistent()) {
      // Where one chunk is all, the gradient of weight_hh is written after the last read of the
      // packed weight, which may lie in its memory until then.
      void* buffer = layer_.chunk_steps == args_.shape.seq_len ? grad_weight_hh_ : nullptr;
      const int64_t buffer_elements = layer_.gate_size * layer_.output_size;
      sweep_.packed_hh = multiplier_.pack(SweepProduct::kGradHidden, weights.weight_hh, buffer,
                                          buffer_elements * accum_bytes(args_.shape.dtype));
      sweep_.packed_hr = multiplier_.pack(SweepProduct::kGradProjected, weights.weight_hr);
      return;
    }
    const int64_t batch_size = args_.shape.batch_size, output_size = layer_.output_size;
    sweep_.product = product_ = layer_.allocate(batch_size * output_size);
    weight_hh_ = conversions_.as_accum(weights.weight_hh, layer_.gate_size, output_size);
    if (weights.weight_hr == nullptr) return;
    sweep_.projected = projected_ = layer_.allocate(batch_size * layer_.hidden_size);
    weight_hr_ = conversions_.as_accum(weights.weight_hr, output_size, layer_.hidden_size);
  }

  // Where a gradient of type S is summed up: in place if S is A.
  void* accumulator(void* grad, int64_t elements) {
    return grad == nullptr || layer_.is_accum ? grad : layer_.allocate(elements);
  }

  // The gate gradients of the recurrent side of step s, which was visited before.
  const void* dgr_of(int64_t s) const {
    if (s == sweep_.end) return dgr_end_;
    const int64_t row = layer_.steps.row(s) - sweep_.first_row;
    return layer_.accum(sweep_.dgr, row * layer_.gate_size);
  }

  // Step -1 only delivers grad_h_0 of the rows of step 0.
  void step(int64_t s) {
    const int64_t output_size = layer_.output_size;
    const int64_t rows = layer_.steps.rows(s);
    int64_t product_rows = layer_.steps.rows(s + 1);
    if (!wants_first_h_) product_rows = std::min(product_rows, rows);
    if (product_rows > 0) {
      multiplier_.gemm(Transpose::kNo, Transpose::kNo, product_rows, output_size, layer_.gate_size,
                       dgr_of(s + 1), layer_.gate_size, weight_hh_, output_size, 0, product_,
                       output_size);
    }
    layer_.parallel(std::max(rows, product_rows), layer_.gate_size,
                    [&](int64_t row_begin, int64_t row_end) {
                      layer_.cell_kernels.backward_hidden(sweep_, s, row_begin, row_end);
                    });
    if (sweep_.dh == nullptr || rows == 0) return;
    const int64_t row = layer_.steps.row(s) - sweep_.first_row;
    multiplier_.gemm(Transpose::kNo, Transpose::kNo, rows, layer_.hidden_size, output_size,
                     layer_.accum(sweep_.dh, row * output_size), output_size, weight_hr_,
                     layer_.hidden_size, 0, projected_, layer_.hidden_size);
    layer_.parallel(rows, layer_.gate_size, [&](int64_t row_begin, int64_t row_end) {
      layer_.cell_kernels.backward_cell(sweep_, s, row_begin, row_end);
    });
  }

  void multiply_chunk() {
    const int64_t hidden_size = layer_.hidden_size;
    if (args_.grad_input != nullptr) multiply_grad_input();
    add_grad_weights();
    if (grad_weight_hr_ != nullptr) {
      const int64_t saved_row_size = layer_.cell.saved_width() * hidden_size;
      layer_.parallel(chunk_.count, hidden_size, [&](int64_t begin, int64_t end) {
        layer_.cell_kernels.unprojected(
            layer_.storage(sweep_.saved,
                           (chunk_.first - sweep_.saved_first_row + begin) * saved_row_size),
            layer_.accum(copy_, begin * hidden_size), end - begin, hidden_size);
      });
      multiplier_.set_operand(hidden_size, chunk_.count, copy_, hidden_size, &rows_);
      const Product product{&rows_, 0, has_sums_, grad_weight_hr_, hidden_size};
      multiplier_.matmul(Transpose::kYes, layer_.output_size, chunk_.count, sweep_.dh,
                         layer_.output_size, &product, 1);
    }
    if (sums_x_ != nullptr) {
      sum_columns(sweep_.dgx, layer_.gate_size, sums_x_);
      if (sums_r_ != sums_x_) sum_columns(sweep_.dgr, layer_.gate_size, sums_r_);
    }
    if (sums_params_ != nullptr) {
      sum_columns(sweep_.dparams, layer_.cell.params * hidden_size, sums_params_);
    }
    store_gates(sweep_.dgx, args_.grad_gates_x);
    store_gates(sweep_.dgr, args_.grad_gates_r);
  }

  void store_gates(const void* grads, void* dst) {
    if (dst == nullptr) return;
    conversions_.store_steps(grads, sweep_.begin, sweep_.end, layer_.gate_size, false, dst);
  }

  // grad_weight_ih and grad_weight_hh = or += the gradients of the gates^T * the input, or the h
  // before, of all rows. Both read the same gradients at once, unless a cell has its sides apart or
  // operands that are not packed share copy_.
  void add_grad_weights() {
    Product products[Multiplier::kMaxProducts];
    int count = 0;
    const auto multiply = [&](const void* grads) {
      multiplier_.matmul(Transpose::kYes, layer_.gate_size, chunk_.count, grads, layer_.gate_size,
                         products, count);
      count = 0;
    };
    if (grad_weight_ih_ != nullptr) {
      const int64_t cols = args_.shape.input_size;
      const void* input =
          conversions_.load_steps(args_.input, sweep_.begin, sweep_.end, cols, copy_);
      multiplier_.set_operand(cols, chunk_.count, input, cols, &rows_);
      products[count++] = {&rows_, 0, has_sums_, grad_weight_ih_, cols};
      if (layer_.cell.split || rows_.packed == nullptr) multiply(sweep_.dgx);
    }
    if (grad_weight_hh_ != nullptr) products[count++] = set_h_before();
    multiply(sweep_.dgr);
    const bool has_left_out = h_is_output() && sweep_.begin == 0 && args_.h_0 != nullptr;
    if (grad_weight_hh_ != nullptr && has_left_out) add_first_step();
  }

  // The product for grad_weight_hh; where h is read from the output, without the rows of step 0.
  Product set_h_before() {
    const int64_t cols = layer_.output_size;
    RowRange rows = chunk_;
    if (h_is_output()) {
      const int64_t begin = std::max<int64_t>(sweep_.begin, 1), end = sweep_.end;
      const void* h_before = args_.output;
      rows.count = 0;
      if (begin < end) {
        rows = layer_.chunk_rows(begin, end);
        const int64_t first = layer_.chunk_rows(begin - 1, end - 1).first;
        h_before = layer_.accum(h_before, first * args_.output_row_stride);
      }
      multiplier_.set_operand(cols, rows.count, h_before, args_.output_row_stride, &h_before_);
    } else {
      gather_h_before();
      multiplier_.set_operand(cols, rows.count, copy_, cols, &h_before_);
    }
    return {&h_before_, rows.first - chunk_.first, has_sums_, grad_weight_hh_, cols};
  }

  // Adds the rows of step 0 to grad_weight_hh.
  void add_first_step() {
    const int64_t cols = layer_.output_size;
    const RowRange rows = layer_.chunk_rows(0, 1);
    multiplier_.set_operand(cols, rows.count, args_.h_0, cols, &h_before_);
    const Product product{&h_before_, 0, true, grad_weight_hh_, cols};
    multiplier_.matmul(Transpose::kYes, layer_.gate_size, rows.count, dgr_of(0), layer_.gate_size,
                       &product, 1);
  }

  void multiply_grad_input() {
    const int64_t input_size = args_.shape.input_size;
    const bool in_place = conversions_.rows_are_accum();
    void* to = in_place ? layer_.storage(args_.grad_input, chunk_.first * input_size) : copy_;
    const Product product{&weight_ih_, 0, in_place && args_.accumulate_grad_input, to, input_size};
    multiplier_.matmul(Transpose::kNo, chunk_.count, layer_.gate_size, sweep_.dgx, layer_.gate_size,
                       &product, 1);
    if (in_place) return;
    conversions_.store_steps(to, sweep_.begin, sweep_.end, input_size, args_.accumulate_grad_input,
                             args_.grad_input);
  }

  // copy_ = the h that each row of the chunk started from.
  void gather_h_before() {
    const SweepSteps& steps = layer_.steps;
    const int64_t cols = layer_.output_size;
    layer_.for_each_step(sweep_.begin, sweep_.end, cols, [&](int64_t s) {
      const int64_t rows = steps.rows(s);
      const int64_t old_rows = std::min(rows, steps.rows(s - 1));
      void* to = layer_.accum(copy_, (steps.row(s) - chunk_.first) * cols);
      if (old_rows > 0) {
        const int64_t offset = steps.caller_row(s - 1) * args_.output_row_stride;
        layer_.dtype_kernels.load_rows(layer_.storage(args_.output, offset),
                                       args_.output_row_stride, steps.order, to, cols, old_rows,
                                       cols);
      }
      const void* h_0 = args_.h_0;
      if (h_0 != nullptr) h_0 = layer_.storage(h_0, old_rows * cols);
      conversions_.load_state(h_0, rows - old_rows, cols, layer_.accum(to, old_rows * cols));
      if (args_.shape.reset != nullptr) reset_rows(s, rows, to);
    });
  }

  // Replaces the rows of h that step s resets.
  void reset_rows(int64_t s, int64_t rows, void* h) {
    const int64_t cols = layer_.output_size;
    for (int64_t row = 0; row < rows; ++row) {
      if (args_.shape.reset[layer_.steps.caller_row(s, row)] == 0) continue;
      const void* replacement = args_.reset_h;
      if (replacement != nullptr) replacement = layer_.storage(replacement, row * cols);
      conversions_.load_state(replacement, 1, cols, layer_.accum(h, row * cols));
    }
  }

  void sum_columns(const void* grads, int64_t cols, void* sums) {
    layer_.parallel(cols, chunk_.count, [&](int64_t begin, int64_t end) {
      layer_.dtype_kernels.sum_columns(grads, cols, chunk_.count, begin, end, sums);
    });
  }

  // The next chunk overwrites dgr, and its first product needs the last step visited here.
  void keep_first_step() {
    if (sweep_.begin == 0) return;
    const int64_t elements = layer_.steps.rows(sweep_.begin) * layer_.gate_size;
    std::memcpy(dgr_end_, dgr_of(sweep_.begin),
                static_cast<size_t>(elements * accum_bytes(args_.shape.dtype)));
  }

  void finish() {
    const LayerShape& shape = args_.shape;
    const int64_t gate_size = layer_.gate_size, hidden_size = layer_.hidden_size;
    store(sums_x_, args_.grad_bias_ih, 1, gate_size);
    store(sums_r_, args_.grad_bias_hh, 1, gate_size);
    store(sums_params_, args_.grad_params, layer_.cell.params, hidden_size);
    store(sweep_.dc, args_.grad_c_0, shape.batch_size, hidden_size);
    store(sweep_.dreset_h, args_.grad_reset_h, shape.batch_size, layer_.output_size);
    store(sweep_.dreset_c, args_.grad_reset_c, shape.batch_size, hidden_size);
    if (layer_.is_accum) return;
    store(grad_weight_ih_, args_.grad_weight_ih, gate_size, shape.input_size);
    store(grad_weight_hh_, args_.grad_weight_hh, gate_size, layer_.output_size);
    store(grad_weight_hr_, args_.grad_weight_hr, layer_.output_size, hidden_size);
  }

  void store(const void* src, void* dst, int64_t rows, int64_t cols) {
    if (dst == nullptr) return;
    layer_.parallel(rows, cols, [&](int64_t begin, int64_t end) {
      layer_.dtype_kernels.store_rows(layer_.accum(src, begin * cols), cols,
                                      layer_.storage(dst, begin * cols), cols, end - begin, cols,
                                      false);
    });
  }

  const LayerBackwardArgs& args_;
  CpuLayer layer_;
  Conversions conversions_;
  Multiplier multiplier_;
  LayerForwardArgs forward_args_{};
  std::optional<ForwardPass> forward_;  // with recompute
  BackwardSweep sweep_{};
  RowRange chunk_{};
  bool wants_first_h_ = false;  // gradients of the states that entered the sequence are wanted
  bool has_sums_ = false;       // a chunk has written the gradients of the weights
  void* recomputed_ = nullptr;  // S [rows since a kept state, saved_width, H]
  int64_t saved_begin_ = 0;     // the sweep step that recomputed_ begins with
  void* dgr_end_ = nullptr;
  Operand weight_ih_{};
  const void* weight_hh_ = nullptr;  // per_step: weights as A
  const void* weight_hr_ = nullptr;
  void* product_ = nullptr;
  void* projected_ = nullptr;
  void* grad_weight_ih_ = nullptr;  // gradients as A
  void* grad_weight_hh_ = nullptr;
  void* grad_weight_hr_ = nullptr;
  // What follows holds the rows of a chunk.
  Operand rows_{};          // the input, or what was projected
  Operand h_before_{};      // the h that they start from
  void* copy_ = nullptr;    // A, what one of these is packed from, or the gradient of the input
  void* sums_x_ = nullptr;  // A [G * H], gradient of bias_ih
  void* sums_r_ = nullptr;  // A [G * H], gradient of bias_hh
  void* sums_params_ = nullptr;  // A [kParams * H]
};

// The gradients of an empty batch are zeros.
void fill_zeros(const LayerBackwardArgs& args) {
  const LayerShape& shape = args.shape;
  const CellInfo& cell = cell_info(shape.cell);
  const int64_t gate_size = cell.gates * shape.hidden_size;
  const auto fill = [&](void* grad, int64_t elements) {
    if (grad != nullptr) {
      std::memset(grad, 0, static_cast<size_t>(elements * dtype_bytes(shape.dtype)));
    }
  };
  fill(args.grad_weight_ih, gate_size * shape.input_size);
  fill(args.grad_weight_hh, gate_size * shape.output_size());
  fill(args.grad_bias_ih, gate_size);
  fill(args.grad_bias_hh, gate_size);
  fill(args.grad_weight_hr, shape.proj_size * shape.hidden_size);
  fill(args.grad_params, cell.params * shape.hidden_size);
}

}  // namespace

Status layer_backward_cpu(const LayerBackwardArgs& args, const Plan& plan, const Plan& forward_plan,
                          Isa isa, CpuRuntime& runtime) {
  const KernelTable& table = use_kernel_table(isa);
  if (args.shape.batch_size > 0) {
    Backward(args, plan, forward_plan, table, runtime).run();
  } else {
    fill_zeros(args);
  }
  return {};
}

}  // namespace fusedrnn
