// layer_forward_cpu: the input projection of a chunk of time steps by one matrix product,
// then the sweep over the chunk's steps, chunk after chunk; or the sweep does both.
#include <algorithm>
#include <cstring>

#include "cpu/dispatch.h"
#include "cpu/kernels.h"
#include "cpu/layer.h"

namespace fusedrnn {

namespace {

class Forward {
 public:
  Forward(const LayerForwardArgs& args, const Plan& plan, const KernelTable& table,
          Runtime& runtime)
      : args_(args), layer_(args.shape, plan, table, runtime) {}

  void run() {
    prepare();
    // Without a product and a conversion to hold in cache, the whole sequence is one chunk.
    const bool chunked = !multiplies_input_ || !layer_.is_accum;
    const int64_t chunk_steps = chunked ? layer_.chunk_steps : args_.shape.seq_len;
    for (int64_t begin = 0; begin < args_.shape.seq_len; begin += chunk_steps) {
      sweep_.begin = begin;
      sweep_.end = std::min(begin + chunk_steps, args_.shape.seq_len);
      load_input();
      if (layer_.is_persistent()) {
        layer_.run_region(layer_.kernels.forward_sweep, sweep_);
      } else {
        for (int64_t s = sweep_.begin; s < sweep_.end; ++s) step(s);
      }
    }
    finish();
  }

 private:
  void prepare() {
    const LayerShape& shape = args_.shape;
    const int64_t gate_size = layer_.gate_size;
    sweep_.args = &args_;
    sweep_.steps = layer_.steps;

    multiplies_input_ = layer_.plan.multiplies_input;
    if (!multiplies_input_) {
      weight_ih_ = layer_.take_operand(
          Transpose::kYes, gate_size, shape.input_size,
          layer_.as_accum(args_.weights.weight_ih, gate_size, shape.input_size), shape.input_size);
      take_gx();
    }
    input_copy_ = layer_.is_accum ? nullptr : layer_.take(layer_.chunk_max_rows * shape.input_size);
    void* bias_x = layer_.take_state(args_.weights.bias_ih, 1, gate_size);
    void* bias_r = layer_.take_state(args_.weights.bias_hh, 1, gate_size);
    if (!layer_.cell.split) layer_.rows.column_sums(bias_r, 0, 1, 0, gate_size, bias_x);
    sweep_.bias_x = bias_x;
    sweep_.bias_r = bias_r;

    const int64_t output_size = layer_.output_size;
    sweep_.h_row_stride = output_size;
    for (void*& h : sweep_.h) h = layer_.take_state(args_.h_0, shape.batch_size, output_size);
    if (layer_.cell.states > 1) {
      sweep_.c = layer_.take_state(args_.c_0, shape.batch_size, layer_.hidden_size);
    }
    if (shape.proj_size > 0) sweep_.h_raw = layer_.take(shape.batch_size * layer_.hidden_size);

    if (layer_.is_persistent()) {
      if (multiplies_input_) {
        sweep_.packed_ih = layer_.pack(SweepProduct::kInputs, args_.weights.weight_ih);
      }
      sweep_.packed_hh = layer_.pack(SweepProduct::kGates, args_.weights.weight_hh);
      sweep_.packed_hr = layer_.pack(SweepProduct::kProjected, args_.weights.weight_hr);
      layer_.set_team(&sweep_);
      return;
    }
    weight_hh_ = layer_.as_accum(args_.weights.weight_hh, gate_size, output_size);
    weight_hr_ = layer_.as_accum(args_.weights.weight_hr, output_size, layer_.hidden_size);
    if (layer_.cell.split) sweep_.product = product_ = layer_.take(shape.batch_size * gate_size);
    if (shape.proj_size > 0) {
      sweep_.projected = projected_ = layer_.take(shape.batch_size * output_size);
    }
  }

  // Training keeps what the cell saves where its input side was, if that has room.
  void take_gx() {
    gx_in_saved_ =
        args_.saved != nullptr && layer_.is_accum && layer_.cell.saved_width() >= layer_.cell.gates;
    sweep_.gx_row_stride =
        gx_in_saved_ ? layer_.cell.saved_width() * layer_.hidden_size : layer_.gate_size;
    gx_ = gx_in_saved_ ? args_.saved : layer_.take(layer_.chunk_max_rows * layer_.gate_size);
  }

  void load_input() {
    const RowRange chunk = layer_.chunk_rows(sweep_.begin, sweep_.end);
    const int64_t input_size = args_.shape.input_size;
    sweep_.first_row = chunk.first;
    const void* input = layer_.as_accum(layer_.storage(args_.input, chunk.first * input_size),
                                        chunk.count, input_size, input_copy_);
    if (multiplies_input_) {
      sweep_.input = input;
      return;
    }
    sweep_.gx = gx_in_saved_ ? layer_.accum(gx_, chunk.first * sweep_.gx_row_stride) : gx_;
    layer_.matmul(Transpose::kNo, chunk.count, input, input_size, weight_ih_, false, sweep_.gx,
                  sweep_.gx_row_stride);
  }

  void step(int64_t s) {
    const int64_t rows = layer_.steps.rows(s);
    const int64_t output_size = layer_.output_size;
    void* target = product_;
    int64_t target_stride = layer_.gate_size;
    if (target == nullptr) {
      const int64_t gx_row = layer_.steps.row(s) - sweep_.first_row;
      target = layer_.accum(sweep_.gx, gx_row * sweep_.gx_row_stride);
      target_stride = sweep_.gx_row_stride;
    }
    layer_.gemm(Transpose::kNo, Transpose::kYes, rows, layer_.gate_size, output_size,
                sweep_.h[s & 1], sweep_.h_row_stride, weight_hh_, output_size,
                product_ == nullptr ? 1 : 0, target, target_stride);
    layer_.parallel(rows, layer_.gate_size, [&](int64_t row_begin, int64_t row_end) {
      layer_.kernels.forward_cell(sweep_, s, row_begin, row_end);
    });
    if (args_.shape.proj_size == 0) return;
    layer_.gemm(Transpose::kNo, Transpose::kYes, rows, output_size, layer_.hidden_size,
                sweep_.h_raw, layer_.hidden_size, weight_hr_, layer_.hidden_size, 0, projected_,
                output_size);
    layer_.parallel(rows, output_size, [&](int64_t row_begin, int64_t row_end) {
      layer_.kernels.forward_project(sweep_, s, row_begin, row_end);
    });
  }

  // h_n is each row's last output, c_n what the sweep left of c.
  void finish() {
    const LayerShape& shape = args_.shape;
    const Steps& steps = layer_.steps;
    const auto row_bytes = static_cast<size_t>(layer_.output_size * dtype_bytes(shape.dtype));
    int64_t s = shape.seq_len - 1;
    for (int64_t row = 0; row < shape.batch_size; ++row) {
      while (steps.rows(s) <= row) --s;
      const int64_t output_row = steps.row(s) + row;
      std::memcpy(layer_.storage(args_.h_n, row * layer_.output_size),
                  layer_.storage(static_cast<const void*>(args_.output),
                                 output_row * args_.output_row_stride),
                  row_bytes);
    }
    if (args_.c_n != nullptr) {
      layer_.rows.store_rows(sweep_.c, layer_.hidden_size, args_.c_n, layer_.hidden_size,
                             shape.batch_size, layer_.hidden_size, false);
    }
  }

  const LayerForwardArgs& args_;
  Layer layer_;
  ForwardSweep sweep_{};
  bool multiplies_input_ = false;  // the sweep does
  bool gx_in_saved_ = false;
  void* gx_ = nullptr;          // of the chunk, or the whole of `saved`
  void* input_copy_ = nullptr;  // A [rows of the chunk, I]
  Operand weight_ih_{};
  const void* weight_hh_ = nullptr;  // per_step: weights as A
  const void* weight_hr_ = nullptr;
  void* product_ = nullptr;
  void* projected_ = nullptr;
};

}  // namespace

Status layer_forward_cpu(const LayerForwardArgs& args, const Plan& plan, Isa isa,
                         Runtime& runtime) {
  const KernelTable& table = use_kernel_table(isa);
  if (args.shape.batch_size > 0) Forward(args, plan, table, runtime).run();
  return {};
}

}  // namespace fusedrnn
