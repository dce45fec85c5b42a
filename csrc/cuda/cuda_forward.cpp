// layer_forward_cuda: for each chunk of time steps the input projection of every direction by one
// matrix product, then the steps: one launch for all of them, or for each a kernel and where the
// plan says so a product before it.
#include "cuda/cuda_forward.h"

#include <algorithm>
#include <utility>

#include "cuda/cuda_library.h"

namespace fusedrnn {

CudaForwardPass::CudaForwardPass(const LayerForwardArgs* args, int directions, const CudaPlan& plan,
                                 const CudaKernels& kernels, CudaRuntime& runtime)
    : args_(args),
      shapes_{&args[0].shape, &args[directions - 1].shape},
      layer_(shapes_, directions, plan, kernels, runtime) {
  prepare();
}

Status CudaForwardPass::run() {
  run_steps(0, layer_.shape.seq_len);
  if (layer_.shape.proj_size > 0 && layer_.shape.lengths != nullptr) end_rows();
  return layer_.status;
}

Status CudaForwardPass::rerun(int64_t begin, int64_t end, const Rerun (&reruns)[kMaxDirections]) {
  restart_ = begin;
  for (int d = 0; d < layer_.directions; ++d) {
    restart_c_[d] = reruns[d].c;
    buffers_[d].saved = reruns[d].saved;
    buffers_[d].saved_first_row = reruns[d].saved_first_row;
  }
  run_steps(begin, end);
  return layer_.status;
}

void CudaForwardPass::run_steps(int64_t begin, int64_t end) {
  for (int64_t part_end = begin; begin < end && layer_.status.ok; begin = part_end) {
    const int64_t chunk = begin / layer_.chunk_steps * layer_.chunk_steps;
    part_end = std::min(chunk + layer_.chunk_steps, end);
    if (chunk != projected_chunk_) project_input(chunk);
    if (layer_.is_single_block()) {
      sweep(begin, part_end);
    } else if (layer_.is_fused()) {
      steps_together(begin, part_end);
    } else {
      for (int64_t s = begin; s < part_end && layer_.status.ok; ++s) step(s);
    }
  }
}

void CudaForwardPass::prepare() {
  const int64_t batch_size = layer_.shape.batch_size;
  sizes_ = {layer_.hidden_size, layer_.output_size, args_[0].output_row_stride, 0, batch_size};
  for (int d = 0; d < layer_.directions; ++d) {
    const LayerForwardArgs& args = args_[d];
    ForwardBuffers& buffers = buffers_[d];
    buffers.weight_hh = args.weights.weight_hh;
    buffers.bias_ih = args.weights.bias_ih;
    buffers.bias_hh = args.weights.bias_hh;
    buffers.params = args.weights.params;
    buffers.h_0 = args.h_0;
    buffers.c_0 = args.c_0;
    buffers.lengths = args.shape.lengths;
    buffers.reset = args.shape.reset;
    buffers.reset_h = args.reset_h;
    buffers.reset_c = args.reset_c;
    buffers.output = args.output;
    if (args.shape.recompute > 0) {
      buffers.kept_c = layer_.cell.states > 1 ? args.saved : nullptr;
      buffers.kept_steps = args.shape.recompute;
    } else {
      buffers.saved = args.saved;
    }
    buffers.h_n = args.h_n;
    buffers.c_n = args.c_n;
    buffers.all_c = args.c;
    buffers.gx = gx_[d] = layer_.allocate_accum(layer_.chunk_max_rows * layer_.gate_size);
    if (layer_.has_step_product()) {
      buffers.product = product_[d] = layer_.allocate_accum(batch_size * layer_.gate_size);
      if (args.h_0 != nullptr) buffers.start_product = multiply_state(d, args.h_0);
      if (args.shape.reset != nullptr && args.reset_h != nullptr) {
        buffers.reset_product = multiply_state(d, args.reset_h);
      }
    }
    if (layer_.cell.states > 1) buffers.c = layer_.allocate_accum(batch_size * layer_.hidden_size);
    if (layer_.shape.proj_size > 0) {
      buffers.h_raw = layer_.allocate_storage(batch_size * layer_.hidden_size);
    }
  }
}

// Projects the input of the chunk that begins with that step.
void CudaForwardPass::project_input(int64_t chunk) {
  const int64_t end = std::min(chunk + layer_.chunk_steps, layer_.shape.seq_len);
  const int64_t input_size = layer_.shape.input_size;
  for (int d = 0; d < layer_.directions; ++d) {
    const RowRange rows = layer_.chunk_rows(d, chunk, end);
    buffers_[d].first_row = rows.first;
    layer_.multiply(layer_.accum_dtype, Transpose::kNo, Transpose::kYes, rows.count,
                    layer_.gate_size, input_size,
                    {layer_.storage(args_[d].input, rows.first * input_size), input_size},
                    {args_[d].weights.weight_ih, input_size}, 0, gx_[d], layer_.gate_size);
  }
  projected_chunk_ = chunk;
}

// The buffers as steps from s on need them.
ForwardBuffers CudaForwardPass::buffers_at(int d, int64_t s) const {
  ForwardBuffers buffers = buffers_[d];
  buffers.c_before = s == restart_ ? restart_c_[d] : buffers.c;
  return buffers;
}

void CudaForwardPass::sweep(int64_t begin, int64_t end) {
  if (!layer_.status.ok) return;
  ForwardSweepArgs args{};
  args.sizes = sizes_;
  for (int d = 0; d < layer_.directions; ++d) {
    args.buffers[d] = buffers_at(d, begin);
    args.steps[d] = layer_.steps[d];
  }
  args.begin = begin;
  args.end = end;
  args.unit_threads = layer_.plan.unit_threads;
  layer_.note(
      layer_.kernels.cell.forward_sweep(args, layer_.directions, layer_.plan, layer_.stream));
}

ForwardStepArgs CudaForwardPass::step_args(int64_t s) const {
  ForwardStepArgs args{};
  args.sizes = sizes_;
  for (int d = 0; d < layer_.directions; ++d) {
    args.buffers[d] = buffers_at(d, s);
    args.step[d] = step_rows(layer_.steps[d], s);
  }
  return args;
}

void CudaForwardPass::steps_together(int64_t begin, int64_t end) {
  // Steps differ in their rows, and the first one may have another c before it.
  SequenceKey key;
  key.add(sizes_);
  for (int d = 0; d < layer_.directions; ++d) {
    key.add(buffers_at(d, begin));
    key.add_steps(layer_.steps[d], begin, end);
  }
  layer_.launch_together(layer_.kernels.cell.forward_step, std::move(key), end - begin,
                         [&](int64_t i) { return step_args(begin + i); });
}

void CudaForwardPass::step(int64_t s) {
  const ForwardStepArgs args = step_args(s);
  for (int d = 0; d < layer_.directions && layer_.has_step_product(); ++d) {
    multiply_h(d, args.step[d]);
  }
  if (!layer_.status.ok) return;
  layer_.note(
      layer_.kernels.cell.forward_step(args, layer_.directions, layer_.plan.form, layer_.stream));
  if (layer_.shape.proj_size == 0 || args_[0].h_n == nullptr) return;
  for (int d = 0; d < layer_.directions; ++d) project_h(d, args.step[d]);
}

// Multiplies h of the step before, also of rows that a reset or their start give another h.
void CudaForwardPass::multiply_h(int d, const StepRows& step) {
  const LayerForwardArgs& args = args_[d];
  multiply_h(d, std::min(step.rows, step.rows_before),
             {layer_.storage(args.output, step.row_before * args.output_row_stride),
              args.output_row_stride},
             product_[d]);
}
// The product of a state that rows start from, in a buffer of its own.
const void* CudaForwardPass::multiply_state(int d, const void* h) {
  void* product = layer_.allocate_accum(layer_.shape.batch_size * layer_.gate_size);
  multiply_h(d, layer_.shape.batch_size, {h, layer_.output_size}, product);
  return product;
}
void CudaForwardPass::multiply_h(int d, int64_t rows, Matrix h, void* product) {
  layer_.multiply(layer_.accum_dtype, Transpose::kNo, Transpose::kYes, rows, layer_.gate_size,
                  layer_.output_size, h, {args_[d].weights.weight_hh, layer_.output_size}, 0,
                  product, layer_.gate_size);
}

void CudaForwardPass::project_h(int d, const StepRows& step) {
  const LayerForwardArgs& args = args_[d];
  const int64_t output_size = layer_.output_size, hidden_size = layer_.hidden_size;
  void* output = layer_.storage(args.output, step.row * args.output_row_stride);
  layer_.multiply(layer_.dtype, Transpose::kNo, Transpose::kYes, step.rows, output_size,
                  hidden_size, {buffers_[d].h_raw, hidden_size},
                  {args.weights.weight_hr, hidden_size}, 0, output, args.output_row_stride);
  if (layer_.shape.lengths != nullptr) return;  // end_rows
  const int64_t rows_after = std::min(step.rows, step.rows_after);
  layer_.copy({layer_.storage(output, rows_after * args.output_row_stride), args.output_row_stride},
              layer_.storage(args.h_n, rows_after * output_size), output_size,
              step.rows - rows_after, output_size);
}

// Does what project_h cannot do for rows that end where only the device knows.
void CudaForwardPass::end_rows() {
  for (int d = 0; d < layer_.directions && layer_.status.ok; ++d) {
    const LayerForwardArgs& args = args_[d];
    layer_.note(layer_.kernels.dtype.end_rows(
        {args.output, args.output_row_stride, args.h_0, args.h_n, layer_.shape.total_rows,
         layer_.output_size, layer_.steps[d], layer_.padding(0)},
        layer_.stream));
  }
}

Status run_forward(const LayerForwardArgs* args, int directions, const CudaPlan& plan,
                   const CudaKernels& kernels, CudaRuntime& runtime) {
  if (args[0].shape.batch_size == 0) return {};
  return CudaForwardPass(args, directions, plan, kernels, runtime).run();
}

Status layer_forward_cuda(const LayerForwardArgs* args, int directions, const CudaPlan& plan,
                          CudaRuntime& runtime) {
  const LayerShape& shape = args[0].shape;
  return run_forward(args, directions, plan, cuda_kernels(shape.cell, shape.dtype), runtime);
}

}  // namespace fusedrnn
