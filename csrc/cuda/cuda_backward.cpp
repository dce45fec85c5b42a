// layer_backward_cuda: chunks of time steps from the last to the first; in each the steps write
// the gradients of the gates, from which matrix products over all rows of the chunk make the
// gradients of input and weights. Sums have a fixed order: same inputs, same bits. With recompute
// the steps of a chunk come in parts, each after forward has run again from the c kept before it.
#include <algorithm>
#include <initializer_list>
#include <optional>
#include <utility>
#include <vector>

#include "cuda/cuda_forward.h"
#include "cuda/cuda_library.h"

namespace fusedrnn {

namespace {

class Backward {
 public:
  Backward(const LayerBackwardArgs* args, const LayerShape* const* shapes, int directions,
           const CudaPlan& plan, const CudaPlan& forward_plan, const CudaKernels& kernels,
           CudaRuntime& runtime)
      : args_(args), layer_(shapes, directions, plan, kernels, runtime) {
    // A cell that saves nothing has nothing to compute again.
    if (layer_.shape.recompute > 0 && layer_.cell.saved_width() > 0) {
      prepare_rerun(forward_plan);
    }
  }

  Status run() {
    prepare();
    for (int64_t end = layer_.shape.seq_len; end > 0 && layer_.status.ok; end = begin_) {
      end_ = end;
      // Chunks are aligned to the start, as forward's are: steps that run again find their input
      // projected.
      begin_ = (end - 1) / layer_.chunk_steps * layer_.chunk_steps;
      for (int d = 0; d < layer_.directions; ++d) {
        chunk_[d] = layer_.chunk_rows(d, begin_, end_);
        buffers_[d].first_row = chunk_[d].first;
        set_gates(d);
      }
      for (part_end_ = end_; part_end_ > begin_ && layer_.status.ok; part_end_ = part_begin_) {
        part_begin_ = begin_;
        if (forward_) part_begin_ = std::max(begin_, rerun_steps());
        run_part();
      }
      for (int d = 0; d < layer_.directions; ++d) {
        multiply_chunk(d);
        sum_chunk(d);
        keep_first_step(d);
      }
      has_sums_ = true;
    }
    finish();
    return layer_.status;
  }

 private:
  // Runs the sweep steps [part_begin_, part_end_) of the chunk.
  void run_part() {
    if (layer_.is_single_block()) {
      sweep();
    } else if (layer_.is_fused()) {
      steps_together();
    } else {
      for (int64_t s = part_end_ - 1; s >= last_step() && layer_.status.ok; --s) step(s);
    }
    for (int d = 0; d < layer_.directions; ++d) {
      if (h_raw_[d] == nullptr || !layer_.status.ok) continue;
      const RowRange rows = layer_.chunk_rows(d, part_begin_, part_end_);
      const int64_t saved_row = rows.first - buffers_[d].saved_first_row;
      const int64_t saved_row_size = layer_.cell.saved_width() * layer_.hidden_size;
      void* h_raw = layer_.storage(h_raw_[d], (rows.first - chunk_[d].first) * layer_.hidden_size);
      layer_.note(layer_.kernels.cell.unprojected(
          {layer_.storage(buffers_[d].saved, saved_row * saved_row_size), h_raw, rows.count,
           layer_.hidden_size, layer_.padding(rows.first)},
          layer_.stream));
    }
  }

  void prepare_rerun(const CudaPlan& forward_plan) {
    const LayerShape& shape = layer_.shape;
    const int64_t steps = std::min(shape.recompute, shape.seq_len - 1) + 1;
    const int64_t max_rows = std::min(steps * shape.batch_size, shape.total_rows);
    for (int d = 0; d < layer_.directions; ++d) {
      const LayerBackwardArgs& args = args_[d];
      LayerForwardArgs& forward = forward_args_[d];
      forward = forward_inputs(args);
      forward.output = const_cast<void*>(args.output);  // only read without h_n
      forward.output_row_stride = args.output_row_stride;
      reruns_[d].saved =
          layer_.allocate_storage(max_rows * layer_.cell.saved_width() * layer_.hidden_size);
    }
    forward_.emplace(forward_args_, layer_.directions, forward_plan, layer_.kernels,
                     layer_.runtime);
  }

  // Runs forward again from the last state kept before part_end_, if that is not done; returns the
  // step it enters. What was saved lies behind the c of the step before.
  int64_t rerun_steps() {
    const LayerShape& shape = layer_.shape;
    const int64_t kept_idx = (part_end_ - 1) / shape.recompute - 1;
    const int64_t begin = (kept_idx + 1) * shape.recompute;
    if (begin == rerun_begin_) return begin;
    rerun_begin_ = begin;
    const int64_t end = std::min(begin + shape.recompute, shape.seq_len);
    const int64_t hidden_size = layer_.hidden_size, width = layer_.cell.saved_width();
    const bool has_c = begin > 0 && layer_.cell.states > 1;
    for (int d = 0; d < layer_.directions; ++d) {
      CudaForwardPass::Rerun& rerun = reruns_[d];
      const Steps& steps = layer_.steps[d];
      rerun.saved_first_row = layer_.chunk_rows(d, begin - (has_c ? 1 : 0), end).first;
      buffers_[d].saved = rerun.saved;
      buffers_[d].saved_first_row = rerun.saved_first_row;
      rerun.c = nullptr;
      if (!has_c) continue;
      rerun.c = layer_.accum(args_[d].saved, kept_idx * shape.batch_size * hidden_size);
      const int64_t row = steps.row(begin - 1) - rerun.saved_first_row;
      if (!layer_.status.ok) return begin;
      layer_.note(layer_.kernels.dtype.store(
          {rerun.c,
           hidden_size,
           layer_.storage(rerun.saved, (row * width + width - 1) * hidden_size),
           width * hidden_size,
           steps.rows(begin - 1),
           hidden_size,
           {}},
          layer_.stream));
    }
    layer_.note(forward_->rerun(begin, end, reruns_));
    return begin;
  }

  // A gradient [rows, cols] that steps or chunks add to, itself or as an A.
  struct Accumulator {
    void* grad;  // S, or null: not wanted
    void* sum;   // where the products go
    int64_t rows, cols;
  };

  // Gradients [cols] that are column sums of matrices [chunk rows, cols], over all chunks.
  struct ColumnSums {
    SumColumnsArgs of_chunk[kMaxDirections]{};
    void* const* sources[kMaxDirections][2]{};  // where the matrices of of_chunk are found
    int matrices = 0;                           // of each direction
    SumSlicesArgs of_slices{};
    int results = 0;  // of all directions
  };

  void prepare() {
    const LayerShape& shape = layer_.shape;
    const int64_t gate_size = layer_.gate_size, hidden_size = layer_.hidden_size;
    const int64_t output_size = layer_.output_size, batch_size = shape.batch_size;
    const int64_t max_rows = layer_.chunk_max_rows;
    sizes_ = {hidden_size, output_size, args_[0].output_row_stride, args_[0].grad_output_row_stride,
              batch_size};
    has_chunks_ = layer_.chunk_steps < shape.seq_len;
    sums_in_place_ = !has_chunks_ || layer_.dtype == layer_.accum_dtype;
    for (int d = 0; d < layer_.directions; ++d) {
      const LayerBackwardArgs& args = args_[d];
      BackwardBuffers& buffers = buffers_[d];
      buffers.weight_hh = args.weights.weight_hh;
      buffers.params = args.weights.params;
      buffers.h_0 = args.h_0;
      buffers.c_0 = args.c_0;
      buffers.lengths = args.shape.lengths;
      buffers.reset = args.shape.reset;
      buffers.reset_h = args.reset_h;
      buffers.reset_c = args.reset_c;
      buffers.output = args.output;
      buffers.saved = args.saved;
      buffers.grad_output = args.grad_output;
      buffers.grad_h_n = args.grad_h_n;
      buffers.grad_c_n = args.grad_c_n;
      buffers.grad_c = args.grad_c;
      buffers.grad_h_0 = args.grad_h_0;
      buffers.grad_c_0 = args.grad_c_0;
      prepare_gates(d);
      if (has_chunks_) dgr_end_[d] = layer_.allocate_storage(batch_size * gate_size);
      if (layer_.has_step_product()) {
        buffers.product = product_[d] = layer_.allocate_accum(batch_size * output_size);
      }
      if (layer_.cell.states > 1) buffers.dc = layer_.allocate_accum(batch_size * hidden_size);
      if (args.grad_weight_hh != nullptr) {
        buffers.h_before = layer_.allocate_storage(max_rows * output_size);
      }
      if (shape.proj_size > 0) {
        buffers.dh = layer_.allocate_storage(max_rows * output_size);
        buffers.projected = projected_[d] = layer_.allocate_accum(batch_size * hidden_size);
        if (args.grad_weight_hr != nullptr) {
          h_raw_[d] = layer_.allocate_storage(max_rows * hidden_size);
        }
      } else {
        buffers.carry = layer_.allocate_accum(batch_size * hidden_size);
      }
      reset_h_[d] = reset_accumulator(args.grad_reset_h, output_size);
      reset_c_[d] = reset_accumulator(args.grad_reset_c, hidden_size);
      buffers.dreset_h = reset_h_[d].sum;
      buffers.dreset_c = reset_c_[d].sum;
      weight_ih_[d] = accumulator(args.grad_weight_ih, gate_size, shape.input_size);
      weight_hh_[d] = accumulator(args.grad_weight_hh, gate_size, output_size);
      weight_hr_[d] = accumulator(args.grad_weight_hr, output_size, hidden_size);
      if (args.grad_params != nullptr) {
        buffers.dparams = layer_.allocate_storage(max_rows * layer_.cell.params * hidden_size);
      }
      prepare_sums(d);
    }
    prepare_grad_input();
    if (shape.lengths != nullptr && args_[0].grad_weight_ih != nullptr) {
      valid_input_ = layer_.allocate_storage(max_rows * shape.input_size);
    }
  }

  // The gradients of the gates lie where they are wanted as results, or in a chunk's own memory.
  void prepare_gates(int d) {
    const LayerBackwardArgs& args = args_[d];
    const int64_t elements = layer_.chunk_max_rows * layer_.gate_size;
    gates_x_[d] = args.grad_gates_x;
    if (gates_x_[d] == nullptr && !layer_.cell.split) gates_x_[d] = args.grad_gates_r;
    gates_r_[d] = layer_.cell.split ? args.grad_gates_r : gates_x_[d];
    if (gates_x_[d] == nullptr) buffers_[d].dgx = layer_.allocate_storage(elements);
    if (gates_r_[d] == nullptr && layer_.cell.split) {
      buffers_[d].dgr = layer_.allocate_storage(elements);
    }
  }
  void set_gates(int d) {
    BackwardBuffers& buffers = buffers_[d];
    const int64_t first = chunk_[d].first * layer_.gate_size;
    if (gates_x_[d] != nullptr) buffers.dgx = layer_.storage(gates_x_[d], first);
    if (gates_r_[d] != nullptr) buffers.dgr = layer_.storage(gates_r_[d], first);
    if (!layer_.cell.split) buffers.dgr = buffers.dgx;
  }

  Accumulator accumulator(void* grad, int64_t rows, int64_t cols) {
    void* sum = grad;
    if (grad != nullptr && !sums_in_place_) sum = layer_.allocate_accum(rows * cols);
    return {grad, sum, rows, cols};
  }

  // The accumulator of the states that resets give their rows, which every step adds to.
  Accumulator reset_accumulator(void* grad, int64_t cols) {
    const int64_t rows = layer_.shape.batch_size;
    if (grad == nullptr) return {};
    void* sum = grad;
    if (layer_.dtype != layer_.accum_dtype) sum = layer_.allocate_accum(rows * cols);
    layer_.zero_accum(sum, rows * cols);
    return {grad, sum, rows, cols};
  }

  // Without kSplit both biases have the same gradient, summed up once.
  void prepare_sums(int d) {
    const LayerBackwardArgs& args = args_[d];
    const BackwardBuffers& buffers = buffers_[d];
    const int64_t gate_size = layer_.gate_size;
    bias_sums_.matrices = param_sums_.matrices = 0;  // the same for each direction
    if (layer_.cell.split) {
      add_sum(d, &buffers.dgx, gate_size, {args.grad_bias_ih}, &bias_sums_);
      add_sum(d, &buffers.dgr, gate_size, {args.grad_bias_hh}, &bias_sums_);
    } else {
      add_sum(d, &buffers.dgx, gate_size, {args.grad_bias_ih, args.grad_bias_hh}, &bias_sums_);
    }
    add_sum(d, &buffers.dparams, layer_.cell.params * layer_.hidden_size, {args.grad_params},
            &param_sums_);
  }
  // The column sums of a matrix, made once, are every result that is not null.
  void add_sum(int d, void* const* matrix, int64_t cols, std::initializer_list<void*> results,
               ColumnSums* sums) {
    void* partial = nullptr;
    for (void* result : results) {
      if (result == nullptr) continue;
      if (partial == nullptr) partial = layer_.allocate_accum(kSumSlices * cols);
      sums->of_slices.partial[sums->results] = partial;
      sums->of_slices.dst[sums->results++] = result;
    }
    if (partial == nullptr) return;
    sums->of_chunk[d].cols = sums->of_slices.cols = cols;
    sums->sources[d][sums->matrices] = matrix;
    sums->of_chunk[d].partial[sums->matrices++] = partial;
  }

  // The chunks of two directions come to the rows of the input in opposite order: with more than
  // one chunk all of them add.
  void prepare_grad_input() {
    const LayerShape& shape = layer_.shape;
    for (int d = 0; d < layer_.directions; ++d) {
      adds_grad_input_[d] = args_[d].accumulate_grad_input;
    }
    if (layer_.directions == 1 || !has_chunks_ || adds_grad_input_[0]) return;
    adds_grad_input_[0] = true;
    layer_.copy({nullptr, 0}, args_[0].grad_input, shape.input_size, shape.total_rows,
                shape.input_size);
  }

  // Row 0 of the gradients of the recurrent side of step s, which was visited before.
  const void* dgr_of(int d, int64_t s) const {
    if (s == end_) return dgr_end_[d];  // of the chunk after
    const int64_t row = layer_.steps[d].row(s) - buffers_[d].first_row;
    return layer_.storage(static_cast<const void*>(buffers_[d].dgr), row * layer_.gate_size);
  }

  void sweep() {
    if (!layer_.status.ok) return;
    BackwardSweepArgs args{};
    args.sizes = sizes_;
    for (int d = 0; d < layer_.directions; ++d) {
      args.buffers[d] = buffers_[d];
      args.buffers[d].dgr_after = dgr_of(d, part_end_);
      args.steps[d] = layer_.steps[d];
    }
    args.begin = part_begin_;
    args.end = part_end_;
    args.unit_threads = layer_.plan.unit_threads;
    layer_.note(
        layer_.kernels.cell.backward_sweep(args, layer_.directions, layer_.plan, layer_.stream));
  }

  // Whether the gradient of the h that the first step starts from is wanted.
  bool wants_first_h() const {
    return args_[0].grad_h_0 != nullptr || args_[0].grad_reset_h != nullptr;
  }
  // The last step that the part visits. Step -1 only delivers the gradients of the h that the rows
  // of step 0 start from.
  int64_t last_step() const { return part_begin_ == 0 && wants_first_h() ? -1 : part_begin_; }

  BackwardStepArgs step_args(int64_t s) const {
    BackwardStepArgs args{};
    args.sizes = sizes_;
    for (int d = 0; d < layer_.directions; ++d) {
      args.buffers[d] = buffers_[d];
      StepRows& at = args.step[d] = step_rows(layer_.steps[d], s);
      if (!wants_first_h()) at.rows_after = std::min(at.rows_after, at.rows);
      if (at.rows_after > 0) args.buffers[d].dgr_after = dgr_of(d, s + 1);
    }
    return args;
  }

  void steps_together() {
    // Steps differ in their rows, and in where the gradients of the step after lie: in the chunk,
    // or for its last step, those that the chunk after has left.
    SequenceKey key;
    key.add(sizes_);
    key.add(end_);
    key.add(int64_t{wants_first_h()});
    for (int d = 0; d < layer_.directions; ++d) {
      key.add(buffers_[d]);
      key.add(dgr_end_[d]);
      key.add_steps(layer_.steps[d], last_step(), part_end_);
    }
    layer_.launch_together(layer_.kernels.cell.backward_step, std::move(key),
                           part_end_ - last_step(),
                           [&](int64_t i) { return step_args(part_end_ - 1 - i); });
  }

  void step(int64_t s) {
    const bool projected = layer_.shape.proj_size > 0;
    const CudaKernels& kernels = layer_.kernels;
    const BackwardStepArgs args = step_args(s);
    for (int d = 0; d < layer_.directions && layer_.has_step_product(); ++d) {
      const int64_t rows = args.step[d].rows_after;
      if (rows > 0) multiply_dgr(d, rows, args.buffers[d].dgr_after);
    }
    if (projected) {
      if (!layer_.status.ok) return;
      layer_.note(kernels.dtype.backward_hidden(args, layer_.directions, layer_.stream));
      for (int d = 0; d < layer_.directions; ++d) multiply_dh(d, args.step[d]);
    }
    if (!layer_.status.ok || (projected && s < 0)) return;
    layer_.note(
        kernels.cell.backward_step(args, layer_.directions, layer_.plan.form, layer_.stream));
  }

  void multiply_dgr(int d, int64_t rows, const void* dgr) {
    layer_.multiply(layer_.accum_dtype, Transpose::kNo, Transpose::kNo, rows, layer_.output_size,
                    layer_.gate_size, {dgr, layer_.gate_size},
                    {args_[d].weights.weight_hh, layer_.output_size}, 0, product_[d],
                    layer_.output_size);
  }

  void multiply_dh(int d, const StepRows& step) {
    const int64_t first = (step.row - buffers_[d].first_row) * layer_.output_size;
    layer_.multiply(
        layer_.accum_dtype, Transpose::kNo, Transpose::kNo, step.rows, layer_.hidden_size,
        layer_.output_size, {layer_.storage(buffers_[d].dh, first), layer_.output_size},
        {args_[d].weights.weight_hr, layer_.hidden_size}, 0, projected_[d], layer_.hidden_size);
  }

  void multiply_chunk(int d) {
    const LayerBackwardArgs& args = args_[d];
    const BackwardBuffers& buffers = buffers_[d];
    const int64_t input_size = layer_.shape.input_size, first = chunk_[d].first;
    if (args.grad_input != nullptr) {
      layer_.multiply(layer_.dtype, Transpose::kNo, Transpose::kNo, chunk_[d].count, input_size,
                      layer_.gate_size, {buffers.dgx, layer_.gate_size},
                      {args.weights.weight_ih, input_size}, adds_grad_input_[d] ? 1 : 0,
                      layer_.storage(args.grad_input, first * input_size), input_size);
    }
    const void* input = layer_.storage(args.input, first * input_size);
    if (valid_input_ != nullptr) {
      layer_.copy({input, input_size}, valid_input_, input_size, chunk_[d].count, input_size,
                  layer_.padding(first));
      input = valid_input_;
    }
    add_grad_weight(d, buffers.dgx, input, weight_ih_[d]);
    add_grad_weight(d, buffers.dgr, buffers.h_before, weight_hh_[d]);
    if (h_raw_[d] != nullptr) add_grad_weight(d, buffers.dh, h_raw_[d], weight_hr_[d]);
  }

  // grad += grads^T * values over the rows of the chunk.
  void add_grad_weight(int d, const void* grads, const void* values, const Accumulator& weight) {
    if (weight.grad == nullptr) return;
    layer_.multiply(sums_in_place_ ? layer_.dtype : layer_.accum_dtype, Transpose::kYes,
                    Transpose::kNo, weight.rows, weight.cols, chunk_[d].count, {grads, weight.rows},
                    {values, weight.cols}, has_sums_ ? 1 : 0, weight.sum, weight.cols);
  }

  void sum_chunk(int d) {
    for (ColumnSums* sums : {&bias_sums_, &param_sums_}) {
      if (sums->matrices == 0 || !layer_.status.ok) continue;
      SumColumnsArgs& args = sums->of_chunk[d];
      for (int i = 0; i < sums->matrices; ++i) args.src[i] = *sums->sources[d][i];
      args.rows = chunk_[d].count;
      args.accumulate = has_sums_;
      layer_.note(layer_.kernels.dtype.sum_columns(args, sums->matrices, layer_.stream));
    }
  }

  // The next chunk overwrites dgr, and its first step needs the last one visited here.
  void keep_first_step(int d) {
    if (begin_ == 0) return;
    layer_.copy({dgr_of(d, begin_), layer_.gate_size}, dgr_end_[d], layer_.gate_size,
                layer_.steps[d].rows(begin_), layer_.gate_size);
  }

  void finish() {
    for (const ColumnSums* sums : {&bias_sums_, &param_sums_}) {
      if (sums->results == 0 || !layer_.status.ok) continue;
      layer_.note(layer_.kernels.dtype.sum_slices(sums->of_slices, sums->results, layer_.stream));
    }
    for (int d = 0; d < layer_.directions; ++d) {
      void* gates_r = args_[d].grad_gates_r;
      if (gates_r != gates_r_[d]) {
        layer_.copy({gates_x_[d], layer_.gate_size}, gates_r, layer_.gate_size,
                    layer_.shape.total_rows, layer_.gate_size);
      }
      for (const Accumulator& one :
           {weight_ih_[d], weight_hh_[d], weight_hr_[d], reset_h_[d], reset_c_[d]}) {
        if (one.sum == one.grad || one.cols == 0 || !layer_.status.ok) continue;
        layer_.note(layer_.kernels.dtype.store(
            {one.sum, one.cols, one.grad, one.cols, one.rows, one.cols, {}}, layer_.stream));
      }
    }
  }

  const LayerBackwardArgs* args_;
  CudaLayer layer_;
  LayerForwardArgs forward_args_[kMaxDirections]{};
  std::optional<CudaForwardPass> forward_;  // with recompute
  CudaForwardPass::Rerun reruns_[kMaxDirections]{};
  int64_t rerun_begin_ = -1;  // the step that reruns_ begin with
  LayerSizes sizes_{};
  BackwardBuffers buffers_[kMaxDirections]{};
  int64_t begin_ = 0, end_ = 0;  // sweep steps of the chunk
  int64_t part_begin_ = 0, part_end_ = 0;
  RowRange chunk_[kMaxDirections]{};  // its rows
  bool has_chunks_ = false;           // more than one
  bool has_sums_ = false;             // a chunk has written the gradients of the weights
  bool sums_in_place_ = true;
  bool adds_grad_input_[kMaxDirections]{};
  void* dgr_end_[kMaxDirections]{};  // S [B, G * H], dgr of step end_
  void* product_[kMaxDirections]{};
  void* projected_[kMaxDirections]{};
  void* valid_input_ = nullptr;    // S [chunk rows, I], input with zeros in its padding; or null
  void* h_raw_[kMaxDirections]{};  // S [chunk rows, H], h before the projection
  Accumulator weight_ih_[kMaxDirections]{}, weight_hh_[kMaxDirections]{};
  Accumulator weight_hr_[kMaxDirections]{};
  Accumulator reset_h_[kMaxDirections]{}, reset_c_[kMaxDirections]{};
  // S [N, G * H], results that have the gradients of the gates; or null
  void* gates_x_[kMaxDirections]{};
  void* gates_r_[kMaxDirections]{};
  ColumnSums bias_sums_, param_sums_;
};

// The gradients of the weights of an empty batch are zeros.
Status fill_zeros(const LayerBackwardArgs& args, const CudaDTypeKernels& kernels, Stream stream) {
  const LayerShape& shape = args.shape;
  const CellInfo& cell = cell_info(shape.cell);
  const int64_t gate_size = cell.gates * shape.hidden_size;
  Status status;
  const auto fill = [&](void* grad, int64_t elements) {
    if (grad == nullptr || elements == 0 || !status.ok) return;
    status = kernels.copy({nullptr, 0, grad, elements, 1, elements, {}}, stream);
  };
  fill(args.grad_weight_ih, gate_size * shape.input_size);
  fill(args.grad_weight_hh, gate_size * shape.output_size());
  fill(args.grad_bias_ih, gate_size);
  fill(args.grad_bias_hh, gate_size);
  fill(args.grad_weight_hr, shape.proj_size * shape.hidden_size);
  fill(args.grad_params, cell.params * shape.hidden_size);
  return status;
}

}  // namespace

Status run_backward(const LayerBackwardArgs* args, int directions, const CudaPlan& plan,
                    const CudaPlan& forward_plan, const CudaKernels& kernels,
                    CudaRuntime& runtime) {
  if (args[0].shape.batch_size == 0) {
    Status status;
    for (int d = 0; d < directions && status.ok; ++d) {
      status = fill_zeros(args[d], kernels.dtype, runtime.stream());
    }
    return status;
  }
  const LayerShape* shapes[kMaxDirections] = {&args[0].shape, &args[directions - 1].shape};
  return Backward(args, shapes, directions, plan, forward_plan, kernels, runtime).run();
}

Status layer_backward_cuda(const LayerBackwardArgs* args, int directions, const CudaPlan& plan,
                           const CudaPlan& forward_plan, CudaRuntime& runtime) {
  const LayerShape& shape = args[0].shape;
  return run_backward(args, directions, plan, forward_plan, cuda_kernels(shape.cell, shape.dtype),
                      runtime);
}

}  // namespace fusedrnn
