// Every operator schema. Generic over the cell: a new cell adds no schema.
//
// One operator runs one layer in one direction, or in both where there are weights of two. Shapes,
// with D directions, H hidden_size, P output size (proj_size, or H without projection), G gates, K
// values saved a unit, N rows over all steps:
//   input         [T, B, I]; or [N, I] with sizes [T]
//   h_0           [D, B, P]; None is zeros
//   c_0           [D, B, H]; None is zeros, and it must be None for a cell without c
//   weights       of the forward direction, then of the reverse one, the same ones:
//                 weight_ih [G * H, I], weight_hh [G * H, P], then bias_ih and bias_hh [G * H] or
//                 neither, then weight_hr [P, H] where there is a projection, then params [M * H]
//                 of a cell with M learnable values a unit
//   sizes         int64 or None; of [T, B, I] the steps of each row, [B], 0 to T, on input's
//   device;
//                 of [N, I] the rows of each step, torch's batch_sizes, on the CPU
//   reset         [T, B] or [N], bool: the state entering the step is replaced; or None
//   reset_h       as h_0: what replaces it      reset_c   as c_0; both only with reset
//   output        [T, B, D * P] or [N, D * P]; zeros past a row's steps, as is c
//   h_n           as h_0          c_n       as c_0, or [0] for a cell without c
//   c             of every step [D, T, B, H] or [D, N, H] if `return_c`, else [0]
//   saved         if `save`, else [0]: [D, T, B, K, H] or [D, N, K, H]; with recompute = R > 0
//                 [D, ceil(T / R), B, (states - 1) * H] of the accumulation type; [0] for a dtype
//                 or device without kernels
//   kept_output   if `save`, else [0]: as output, for layer_backward, so that output may be changed
//                 in place; they share memory until one of them is
// layer_backward takes the gradients of output, h_n, c_n and c, each or None, and returns those
// that the mask asks for: of input, h_0, c_0, each of weights, reset_h and reset_c, so far as there
// are such, then of the pre-activations, [D, T, B, G * H] or [D, N, G * H], of their input side and
// of their recurrent side. `kept` is saved and kept_output. Its own gradients, to any order, are
// compositions of torch operators (composite.h).
//
// quantized_forward is layer_forward in float32 for inference, with matrices in a format of their
// own, bfloat16, float16 or int8, all in one. Those in int8 are multiplied by the scale of their
// row: a direction's weights end with the scales of each, float32.
//
// plain_layer_forward is layer_forward without options. cell_forward is it for one time step, of
// rows or of one row:
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
      "layer_forward(str cell, Tensor input, Tensor? h_0, Tensor? c_0, Tensor[] weights, "
      "Tensor? sizes, Tensor? reset, Tensor? reset_h, Tensor? reset_c, bool save, bool return_c, "
      "int recompute) "
      "-> (Tensor output, Tensor h_n, Tensor c_n, Tensor c, Tensor saved, Tensor kept_output)");
  m.def(
      "layer_backward(str cell, Tensor?[] grads, Tensor input, Tensor? h_0, Tensor? c_0, "
      "Tensor[] weights, Tensor? sizes, Tensor? reset, Tensor? reset_h, Tensor? reset_c, "
      "int recompute, Tensor[] kept, bool[] mask) -> Tensor[]");
  m.def(
      "quantized_forward(str cell, Tensor input, Tensor? h_0, Tensor? c_0, Tensor[] weights, "
      "Tensor? sizes, Tensor? reset, Tensor? reset_h, Tensor? reset_c, bool return_c) "
      "-> (Tensor output, Tensor h_n, Tensor c_n, Tensor c)");
  m.def(
      "plain_layer_forward(str cell, Tensor input, Tensor? h_0, Tensor? c_0, Tensor[] weights) "
      "-> (Tensor output, Tensor h_n, Tensor c_n)");
  m.def(
      "cell_forward(str cell, Tensor input, Tensor? h, Tensor? c, Tensor[] weights) "
      "-> (Tensor h, Tensor c)");

  // The activated gates, each [..., H], of pre-activations [..., G * H] of both sides, of the
  // states
  // [..., H] that entered the steps, zeros where they are None, and of params.
  m.def(
      "activate_gates(str cell, Tensor x, Tensor r, Tensor? h, Tensor? c, Tensor? params) "
      "-> Tensor[]");

  // The registry: every cell, and what callers need to know of one.
  m.def("cell_names() -> str[]");
  m.def(
      "describe_cell(str cell) -> (str[] gates, str[] params, int states, int saved_width, "
      "bool has_projection)");

  // What would run: the planner's choice for each pass over one layer on this machine's CPU, one
  // that is described, or a CUDA device. Of a pass: its name, the schedule, its modelled seconds,
  // and facts by name. A machine is what describe_cpu says of this one: threads, threads of one of
  // several sockets or 0, bytes of L1, L2 and L3. Those with cuda in their names are there where
  // CUDA kernels were built.
  m.def(
      "explain_layer(str cell, ScalarType dtype, int seq_len, int batch_size, int input_size, "
      "int hidden_size, int proj_size, int directions, bool training, "
      "ScalarType? weight_dtype=None, int[]? machine=None, str isa='') "
      "-> ((str, str, float, (str, str)[])[])");
  m.def("describe_cpu() -> int[]");
  m.def(
      "explain_layer_cuda(str cell, ScalarType dtype, int seq_len, int batch_size, "
      "int input_size, int hidden_size, int proj_size, int directions, bool training, "
      "bool packed, int device_index) -> ((str, str, float, (str, str)[])[])");
  m.def("cuda_architectures() -> str");           // compute capabilities that there are kernels for
  m.def("last_cuda_plan() -> str");               // the schedule that this thread's last call ran
  m.def("last_cuda_graph() -> bool");             // whether it launched its steps as one graph
  m.def("cuda_self_tests(int device) -> str[]");  // a line a family of kernels that was tested
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
