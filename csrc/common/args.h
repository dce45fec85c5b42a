// Arguments of one recurrent layer in one direction over a whole sequence.
//
// Rows: the sequence is stored time-major as total_rows rows. Step t holds
// batch_sizes[t] rows (non-increasing, as in torch's PackedSequence), or
// batch_size rows each when batch_sizes is null; total_rows is their sum.
// Row b of a step belongs to sequence b.
//
// Order, on the CPU: what is said to have total_rows rows has those of a padded tensor instead,
// padded_rows a step, and row b of step t is its row t * padded_rows + order[b]. The others are
// left alone. `saved` has total_rows rows all the same.
//
// Resets: where reset is set, the state that enters the row's step is replaced by reset_h and
// reset_c, or by zeros where they are null. Its gradient goes to them and no further.
//
// Recompute: with recompute = N > 0 forward keeps, in place of `saved`, what backward restarts
// from every N steps or more, and backward runs forward again from there.
//
// S is the storage type named by dtype, A its accumulation type (types.h).
// Sizes and strides are in elements. The last dimension is always contiguous.
// Nothing aliases. The caller owns every buffer.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace fusedrnn {

struct LayerShape {
  CellKind cell;
  DType dtype;
  Direction direction;
  int64_t seq_len;             // T >= 1
  int64_t batch_size;          // B >= 0: rows of the first step
  int64_t total_rows;          // N
  int64_t input_size;          // I >= 0
  int64_t hidden_size;         // H >= 1
  int64_t proj_size;           // P, or 0 without projection (LSTM only)
  const int64_t* batch_sizes;  // [seq_len], or null
  const int64_t* lengths;      // CUDA only: [batch_size], device memory, steps of each row; or null
  const uint8_t* reset;        // [total_rows], not 0 where the entering state is replaced; or null
  int64_t recompute;           // N, or 0: everything that backward needs is saved
  const int64_t* order;        // CPU only, with batch_sizes: [batch_size], or null
  int64_t padded_rows;         // with order: at least batch_size

  // Width of h: what a step hands to the next one and to the output.
  int64_t output_size() const { return proj_size > 0 ? proj_size : hidden_size; }
};

// Weights of one direction, contiguous, torch's gate order and layout. Biases and params have type
// S; the others as well, or that of `format`, which only a forward pass with Weights::kInPlace
// reads.
struct LayerWeights {
  const void* weight_ih;  // [kGates * hidden_size, input_size]
  const void* weight_hh;  // [kGates * hidden_size, output_size]
  const void* bias_ih;    // [kGates * hidden_size], or null
  const void* bias_hh;    // [kGates * hidden_size], or null
  const void* weight_hr;  // [proj_size, hidden_size], or null
  const void* params;     // [kParams * hidden_size], of the cell; null where it has none
  WeightFormat format = WeightFormat::kSame;
  // With kInt8, what the elements of each row are multiples of; else null, as that of no weight.
  const float* scale_ih = nullptr;  // [kGates * hidden_size]
  const float* scale_hh = nullptr;  // [kGates * hidden_size]
  const float* scale_hr = nullptr;  // [proj_size]
};

struct LayerForwardArgs {
  LayerShape shape;
  LayerWeights weights;
  const void* input;          // S [total_rows, input_size], contiguous
  const void* h_0;            // S [batch_size, output_size], contiguous, or null: zeros
  const void* c_0;            // S [batch_size, hidden_size], contiguous, or null: zeros
  const void* reset_h;        // as h_0
  const void* reset_c;        // as c_0
  void* output;               // S [total_rows, output_size], row stride output_row_stride
  int64_t output_row_stride;  // directions * output_size for a bidirectional layer
  void* h_n;                  // S [batch_size, output_size], contiguous
  void* c_n;                  // S [batch_size, hidden_size], contiguous; null when kStates == 1
  void* c;                    // S [total_rows, hidden_size], c of every step, or null
  // S [total_rows, saved_width(cell), hidden_size], or null: inference. With recompute = N:
  // A [ceil(seq_len / N), batch_size, (kStates - 1) * hidden_size].
  void* saved;
};

struct LayerBackwardArgs {
  LayerShape shape;
  LayerWeights weights;
  const void* input;  // as in forward
  const void* h_0;    // as in forward
  const void* c_0;    // as in forward
  const void* reset_h;
  const void* reset_c;
  const void* output;  // as forward wrote it
  int64_t output_row_stride;
  const void* saved;        // as forward wrote it; never modified
  const void* grad_output;  // S [total_rows, output_size], row stride below, or null: zeros
  int64_t grad_output_row_stride;
  const void* grad_h_n;  // S [batch_size, output_size], contiguous, or null: zeros
  const void* grad_c_n;  // S [batch_size, hidden_size], contiguous, or null: zeros
  const void* grad_c;    // S [total_rows, hidden_size], contiguous, or null: zeros
  // Results are contiguous and overwritten, from the start on for scratch, so they overlap nothing
  // else; those not wanted are null.
  void* grad_input;            // S [total_rows, input_size]
  bool accumulate_grad_input;  // add to grad_input: the second direction of a layer
  void* grad_h_0;              // S [batch_size, output_size]
  void* grad_c_0;              // S [batch_size, hidden_size]
  void* grad_reset_h;          // S [batch_size, output_size]
  void* grad_reset_c;          // S [batch_size, hidden_size]
  void* grad_weight_ih;        // S, shapes as in LayerWeights
  void* grad_weight_hh;
  void* grad_bias_ih;
  void* grad_bias_hh;
  void* grad_weight_hr;
  void* grad_params;
  void* grad_gates_x;  // S [total_rows, kGates * hidden_size], of the pre-activations' input side
  void* grad_gates_r;  // of their recurrent side
};

// Inputs of the forward pass that a backward pass belongs to; results are left null.
inline LayerForwardArgs forward_inputs(const LayerBackwardArgs& args) {
  LayerForwardArgs forward{};
  forward.shape = args.shape;
  forward.weights = args.weights;
  forward.input = args.input;
  forward.h_0 = args.h_0;
  forward.c_0 = args.c_0;
  forward.reset_h = args.reset_h;
  forward.reset_c = args.reset_c;
  return forward;
}

}  // namespace fusedrnn
