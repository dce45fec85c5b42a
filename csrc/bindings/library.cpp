// Every operator schema. Generic over the cell: a new cell adds no schema.
//
// One operator runs one layer in one direction, or in both when the reverse weights are
// given. Shapes, with D directions, H hidden_size, P output size (proj_size, or H without
// projection), G gates, K values saved a unit, N rows over all steps:
//   input         [T, B, I], or [N, I] with batch_sizes [T] (int64, CPU, non-increasing)
//   h_0           [D, B, P]; None is zeros
//   c_0           [D, B, H]; None is zeros, and it must be None for a cell without c
//   reset_h       as h_0       reset_c   as c_0; only with reset
//   weight_ih     [G * H, I]      weight_hh [G * H, P]      weight_hr [P, H] or None
//   bias_ih       [G * H]         bias_hh   [G * H]         both or neither
//   lengths       [B], int64, 0 to T: the steps of each row; not with batch_sizes
//   reset         [T, B] or [N], bool: the state entering the step is replaced by reset_h, reset_c
//   output        [T, B, D * P] or [N, D * P]; zeros past a length, as is c
//   h_n           as h_0          c_n       as c_0, or [0] for a cell without c
//   c             of every step [D, T, B, H] or [D, N, H] if `return_c`, else [0]
//   saved         if `save`, else [0]: [D, T, B, K, H] or [D, N, K, H]; with recompute = R > 0
//                 [D, ceil(T / R), B, (states - 1) * H] of the accumulation type; [0] for a dtype
//                 or device without kernels
//   kept_output   if `save`, else [0]: as output, for layer_backward, so that output may be changed
//   in
//                 place; they share memory until one of them is
// layer_backward returns the gradients of input, h_0, c_0, reset_h, reset_c and the ten weights in
// that order, then those of the pre-activations, [D, T, B, G * H] or [D, N, G * H], of their input
// side and of their recurrent side; those not in output_mask or of absent tensors are [0].
// Its own gradients, to any order, are compositions of torch operators (composite.h).
//
// quantized_forward is layer_forward in float32 for inference, with weights in a format of their
// own:
//   weight_ih, weight_hh, weight_hr in bfloat16, float16 or int8, all in one; int8 times the scale
//   of their row, scale_ih and scale_hh [G * H], scale_hr [P], float32, else None
//
// plain_layer_forward is layer_forward for one direction without options.
//
// cell_forward is layer_forward for one time step, of rows or of one row:
//   input [B, I] or [I]      h [B, P] or [P]      c [B, H] or [H]; results h, c as these, and c [0]
//   for a cell without c
#include <torch/library.h>
#include <torch/version.h>

#include <string>

namespace {
const std::string kBuiltTorch =
    std::to_string(TORCH_VERSION_MAJOR) + "." + std::to_string(TORCH_VERSION_MINOR);
}  // namespace

TORCH_LIBRARY(fusedrnn, m) {
  m.def(
      "layer_forward(str cell, Tensor input, Tensor? h_0, Tensor? c_0, "
      "Tensor? reset_h, Tensor? reset_c, "
      "Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, Tensor? bias_hh, Tensor? weight_hr, "
      "Tensor? weight_ih_reverse, Tensor? weight_hh_reverse, Tensor? bias_ih_reverse, "
      "Tensor? bias_hh_reverse, Tensor? weight_hr_reverse, "
      "Tensor? batch_sizes, Tensor? lengths, Tensor? reset, "
      "bool save, bool return_c, int recompute) "
      "-> (Tensor output, Tensor h_n, Tensor c_n, Tensor c, Tensor saved, Tensor kept_output)");
  m.def(
      "layer_backward(str cell, "
      "Tensor? grad_output, Tensor? grad_h_n, Tensor? grad_c_n, Tensor? grad_c, "
      "Tensor input, Tensor? h_0, Tensor? c_0, Tensor? reset_h, Tensor? reset_c, "
      "Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, Tensor? bias_hh, Tensor? weight_hr, "
      "Tensor? weight_ih_reverse, Tensor? weight_hh_reverse, Tensor? bias_ih_reverse, "
      "Tensor? bias_hh_reverse, Tensor? weight_hr_reverse, "
      "Tensor? batch_sizes, Tensor? lengths, Tensor? reset, int recompute, "
      "Tensor kept_output, Tensor saved, bool[17] output_mask) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, "
      "Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "quantized_forward(str cell, Tensor input, Tensor? h_0, Tensor? c_0, "
      "Tensor? reset_h, Tensor? reset_c, "
      "Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, Tensor? bias_hh, Tensor? weight_hr, "
      "Tensor? weight_ih_reverse, Tensor? weight_hh_reverse, Tensor? bias_ih_reverse, "
      "Tensor? bias_hh_reverse, Tensor? weight_hr_reverse, "
      "Tensor? scale_ih, Tensor? scale_hh, Tensor? scale_hr, "
      "Tensor? scale_ih_reverse, Tensor? scale_hh_reverse, Tensor? scale_hr_reverse, "
      "Tensor? batch_sizes, Tensor? lengths, Tensor? reset, bool return_c) "
      "-> (Tensor output, Tensor h_n, Tensor c_n, Tensor c)");
  m.def(
      "plain_layer_forward(str cell, Tensor input, Tensor? h_0, Tensor? c_0, Tensor weight_ih, "
      "Tensor weight_hh, Tensor? bias_ih, Tensor? bias_hh, Tensor? weight_hr) "
      "-> (Tensor output, Tensor h_n, Tensor c_n)");
  m.def(
      "cell_forward(str cell, Tensor input, Tensor? h, Tensor? c, Tensor weight_ih, "
      "Tensor weight_hh, Tensor? bias_ih, Tensor? bias_hh, Tensor? weight_hr) "
      "-> (Tensor h, Tensor c)");

  // The activated gates, each [..., H], of pre-activations [..., G * H] of both sides.
  m.def("activate_gates(str cell, Tensor x, Tensor r) -> Tensor[]");

  // The registry: every cell, and what callers need to know of one.
  m.def("cell_names() -> str[]");
  m.def(
      "describe_cell(str cell) -> (str[] gates, int states, int saved_width, bool has_projection)");

  // What would run, as text: the planner's choice for one layer on this machine's CPU, or on a
  // CUDA device of it. Those with cuda in their names are there where CUDA kernels were built.
  m.def(
      "explain_layer(str cell, ScalarType dtype, int seq_len, int batch_size, int input_size, "
      "int hidden_size, int proj_size, int directions, bool training, "
      "ScalarType? weight_dtype=None) -> str");
  m.def(
      "explain_layer_cuda(str cell, ScalarType dtype, int seq_len, int batch_size, "
      "int input_size, int hidden_size, int proj_size, int directions, bool training, "
      "bool packed, int device_index) -> str");
  m.def("cuda_architectures() -> str");  // compute capabilities that there are kernels for
  m.def("last_cuda_plan() -> str");      // the schedule that this thread's last call ran
  m.def("last_cuda_graph() -> bool");    // whether it launched its steps as one graph
  // Environment variables that are obeyed; set_variable changes what one of them said.
  m.def("variable_names() -> str[]");
  m.def("set_variable(str name, str value) -> ()");
  // Whether products of float32 on CUDA may round what they multiply to TF32.
  m.def("allows_tf32() -> bool");
  // The torch that this library was compiled with, as "major.minor".
  m.def("built_torch() -> str", [] { return kBuiltTorch; });
  m.def("cpu_isa() -> str");       // the ISA that the next call uses; errors as the call would
  m.def("last_cpu_isa() -> str");  // the ISA that this thread's last call used
  m.def("built_cpu_isas() -> str[]");
  m.def("supported_cpu_isas() -> str[]");
}
