#include "bindings/checks.h"

#include <ATen/ops/empty.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <string_view>

#include "bindings/settings.h"
#include "plan/arithmetic.h"

namespace fusedrnn {
namespace {

constexpr const char* kTensorNames[kLayerTensorCount] = {"input",
                                                         "h_0",
                                                         "c_0",
                                                         "weight_ih",
                                                         "weight_hh",
                                                         "bias_ih",
                                                         "bias_hh",
                                                         "weight_hr",
                                                         "params",
                                                         "weight_ih_reverse",
                                                         "weight_hh_reverse",
                                                         "bias_ih_reverse",
                                                         "bias_hh_reverse",
                                                         "weight_hr_reverse",
                                                         "params_reverse",
                                                         "reset_h",
                                                         "reset_c"};

constexpr const char* kScaleNames[2 * kScaleCount] = {
    "scale_ih", "scale_hh", "scale_hr", "scale_ih_reverse", "scale_hh_reverse", "scale_hr_reverse"};

const char* dtype_name(at::ScalarType dtype) {
  switch (dtype) {
    case at::kComplexFloat:
      return "complex64";
    case at::kComplexDouble:
      return "complex128";
    case at::kFloat:
      return "float32";
    case at::kDouble:
      return "float64";
    case at::kBFloat16:
      return "bfloat16";
    case at::kHalf:
      return "float16";
    case at::kLong:
      return "int64";
    case at::kInt:
      return "int32";
    case at::kChar:
      return "int8";
    case at::kBool:
      return "bool";
    default:
      return c10::toString(dtype);
  }
}

std::string shape_text(at::IntArrayRef shape) {
  return c10::str("(", c10::Join(", ", shape), shape.size() == 1 ? ",)" : ")");
}

// None is given as an undefined tensor where an operator requires one.
void check_given(const char* name, const Tensor& tensor) {
  TORCH_CHECK(tensor.defined(), name, ": expected a tensor, got None");
}

// Checks that layout, device and dtype are those of input, and such that the kernels can read it.
void check_kind(const char* name, const Tensor& tensor, const Tensor& input, at::ScalarType dtype) {
  check_given(name, tensor);
  TORCH_CHECK(tensor.layout() == at::kStrided, name, ": expected a dense tensor, got layout ",
              tensor.layout(), "; call .to_dense() first");
  TORCH_CHECK(tensor.device() == input.device(), name, ": expected device ", input.device(),
              " as input's, got ", tensor.device());
  TORCH_CHECK(tensor.scalar_type() == dtype, name, ": expected dtype ", dtype_name(dtype),
              dtype == input.scalar_type() ? " as input's" : "", ", got ",
              dtype_name(tensor.scalar_type()));
}
void check_kind(const char* name, const Tensor& tensor, const Tensor& input) {
  check_kind(name, tensor, input, input.scalar_type());
}

// Checks the kind of every tensor; weights, biases apart, have weight_dtype.
void check_kinds(const LayerTensors& tensors, at::ScalarType weight_dtype) {
  const Tensor& input = *tensors[kInput];
  for (int place = 0; place < kLayerTensorCount; ++place) {
    if (!tensors[place].has_value()) continue;
    const bool is_weight = place >= kWeights && place < kResetH;
    const int weight = (place - kWeights) % kWeightCount;
    const bool is_matrix =
        is_weight && (weight == kWeightIh || weight == kWeightHh || weight == kWeightHr);
    check_kind(kTensorNames[place], *tensors[place], input,
               is_matrix ? weight_dtype : input.scalar_type());
  }
}

// `formula` is printf text in which %d stands for the number of gates, or of params.
void check_shape(const char* name, const Tensor& tensor, at::IntArrayRef expected,
                 const char* formula, int factor) {
  if (tensor.sizes() == expected) return;
  char text[128];
  std::snprintf(text, sizeof(text), formula, factor);
  TORCH_CHECK(false, name, ": expected shape ", text, " = ", shape_text(expected), ", got ",
              shape_text(tensor.sizes()));
}

void check_rank(const char* name, const Tensor& tensor, int64_t rank, const char* meaning) {
  TORCH_CHECK(tensor.dim() == rank, name, ": expected ", rank, " dimensions ", meaning, ", got ",
              tensor.dim(), " with shape ", shape_text(tensor.sizes()));
}

// Sets seq_len, batch_size and total_rows.
void check_batch_sizes(CheckedLayer& layer) {
  constexpr const char* kEmpty = "Expected sequence length to be larger than 0 in RNN";
  const Tensor& input = *layer.tensors[kInput];
  const OptionalTensor& batch_sizes = layer.sequence.batch_sizes;
  if (!batch_sizes.has_value()) {
    check_rank("input", input, 3, "(seq_len, batch_size, input_size)");
    layer.seq_len = input.size(0);
    layer.batch_size = input.size(1);
    TORCH_CHECK(layer.seq_len > 0, kEmpty);
    return;
  }
  const Tensor sizes = *batch_sizes;
  check_rank("input", input, 2, "(total_rows, input_size), because batch_sizes is given");
  TORCH_CHECK(sizes.layout() == at::kStrided && sizes.device().is_cpu() &&
                  sizes.scalar_type() == at::kLong && sizes.dim() == 1,
              "batch_sizes: expected an int64 CPU tensor of one dimension, got ",
              dtype_name(sizes.scalar_type()), " on ", sizes.device(), " with ", sizes.dim(),
              " dimensions");
  TORCH_CHECK(sizes.size(0) > 0, kEmpty);
  layer.sequence.batch_sizes = sizes.contiguous();
  layer.seq_len = sizes.size(0);
  const int64_t* values = layer.sequence.batch_sizes->const_data_ptr<int64_t>();
  layer.batch_size = values[0];
  layer.total_rows = 0;
  for (int64_t t = 0; t < layer.seq_len; ++t) {
    TORCH_CHECK_VALUE(values[t] > 0 && (t == 0 || values[t] <= values[t - 1]),
                      "batch_sizes: expected positive values that never increase, got ", values[t],
                      " at step ", t, t > 0 ? c10::str(" after ", values[t - 1]) : std::string());
    TORCH_CHECK_VALUE(values[t] <= input.size(0) - layer.total_rows,
                      "batch_sizes: expected the sum ", input.size(0),
                      ", the rows of input, got more by step ", t);
    layer.total_rows += values[t];
  }
  TORCH_CHECK_VALUE(layer.total_rows == input.size(0), "batch_sizes: expected the sum ",
                    input.size(0), ", the rows of input, got ", layer.total_rows);
}

void check_lengths(CheckedLayer& layer) {
  OptionalTensor& lengths = layer.sequence.lengths;
  if (!lengths.has_value()) return;
  check_kind("lengths", *lengths, *layer.tensors[kInput], at::kLong);
  check_shape("lengths", *lengths, {layer.batch_size}, "(batch_size,)", 0);
  lengths = lengths->contiguous();
  if (!lengths->is_cpu() && settings().debug != "1") return;
  const Tensor on_cpu = lengths->cpu();
  const int64_t* values = on_cpu.const_data_ptr<int64_t>();
  for (int64_t row = 0; row < layer.batch_size; ++row) {
    TORCH_CHECK_VALUE(values[row] >= 0 && values[row] <= layer.seq_len,
                      "lengths: expected values from 0 to seq_len = ", layer.seq_len, ", got ",
                      values[row], " at row ", row);
  }
}

void check_reset(CheckedLayer& layer) {
  OptionalTensor& reset = layer.sequence.reset;
  const bool has_state = layer.tensors[kResetH].has_value() || layer.tensors[kResetC].has_value();
  TORCH_CHECK_VALUE(reset.has_value() || !has_state,
                    "reset_h, reset_c: expected None, because reset is None");
  if (!reset.has_value()) return;
  check_kind("reset", *reset, *layer.tensors[kInput], at::kBool);
  if (layer.sequence.batch_sizes.has_value()) {
    check_shape("reset", *reset, {layer.total_rows}, "(total_rows,)", 0);
  } else {
    check_shape("reset", *reset, {layer.seq_len, layer.batch_size}, "(seq_len, batch_size)", 0);
  }
  reset = reset->contiguous();
}

// Checks h_0 and c_0, or reset_h and reset_c.
void check_states(const CheckedLayer& layer, int h_place, int c_place) {
  const OptionalTensor& h = layer.tensors[h_place];
  const OptionalTensor& c = layer.tensors[c_place];
  if (h.has_value()) {
    check_shape(kTensorNames[h_place], *h, layer.h_shape(),
                layer.proj_size > 0 ? "(directions, batch_size, proj_size)"
                                    : "(directions, batch_size, hidden_size)",
                0);
  }
  if (c.has_value()) {
    TORCH_CHECK_VALUE(layer.cell.states == 2, kTensorNames[c_place], ": expected None for cell ",
                      layer.cell.name, ", which has no c, got a tensor");
    check_shape(kTensorNames[c_place], *c, layer.c_shape(), "(directions, batch_size, hidden_size)",
                0);
  }
}

void check_direction(const CheckedLayer& layer, int direction) {
  const int gates = layer.cell.gates;
  const int64_t rows = gates * layer.hidden_size, h_size = layer.output_size();
  const int params = layer.cell.params;
  auto check = [&](DirectionWeight weight, at::IntArrayRef expected, const char* formula) {
    const OptionalTensor& tensor = layer.weight(direction, weight);
    const char* name = kTensorNames[weight_place(direction, weight)];
    const int factor = weight == kParams ? params : gates;
    if (tensor.has_value()) check_shape(name, *tensor, expected, formula, factor);
  };
  check(kWeightHr, {layer.proj_size, layer.hidden_size}, "(proj_size, hidden_size)");
  check(kWeightHh, {rows, h_size},
        layer.proj_size > 0 ? "(%d * hidden_size, proj_size)" : "(%d * hidden_size, hidden_size)");
  check(kWeightIh, {rows, layer.input_size}, "(%d * hidden_size, input_size)");
  check(kBiasIh, {rows}, "(%d * hidden_size,)");
  check(kBiasHh, {rows}, "(%d * hidden_size,)");
  check(kParams, {params * layer.hidden_size}, "(%d * hidden_size,)");
}

// Checks all sizes, sets those of the layer that are not set, and makes each tensor contiguous.
void check_sizes(CheckedLayer& layer) {
  layer.directions = layer.weight(1, kWeightIh).has_value() ? 2 : 1;
  TORCH_CHECK_VALUE(!layer.weight(0, kWeightHr).has_value() || layer.cell.projects,
                    "weight_hr: expected none for cell ", layer.cell.name,
                    ", which has no projection");
  check_batch_sizes(layer);
  check_lengths(layer);
  check_reset(layer);

  layer.input_size = layer.tensors[kInput]->size(-1);
  const Tensor& weight_hh = *layer.weight(0, kWeightHh);
  const OptionalTensor& weight_hr = layer.weight(0, kWeightHr);
  check_rank("weight_hh", weight_hh, 2, "(gates * hidden_size, width of h)");
  if (weight_hr.has_value()) {
    check_rank("weight_hr", *weight_hr, 2, "(proj_size, hidden_size)");
    layer.proj_size = weight_hr->size(0);
    layer.hidden_size = weight_hr->size(1);
    TORCH_CHECK_VALUE(layer.proj_size > 0 && layer.proj_size < layer.hidden_size,
                      "weight_hr: expected 0 < proj_size < hidden_size, got shape ",
                      shape_text(weight_hr->sizes()));
  } else {
    layer.proj_size = 0;
    layer.hidden_size = weight_hh.size(1);
    TORCH_CHECK_VALUE(layer.hidden_size > 0, "weight_hh: expected hidden_size > 0, got shape ",
                      shape_text(weight_hh.sizes()));
  }
  check_buffers(layer.seq_len, layer.batch_size, layer.input_size, layer.hidden_size);
  if (!layer.sequence.batch_sizes.has_value()) layer.total_rows = layer.seq_len * layer.batch_size;
  for (int direction = 0; direction < layer.directions; ++direction) {
    check_direction(layer, direction);
  }
  check_states(layer, kH0, kC0);
  check_states(layer, kResetH, kResetC);
  for (OptionalTensor& tensor : layer.tensors) {
    if (tensor.has_value()) tensor = tensor->contiguous();
  }
}

}  // namespace

const CellInfo& check_cell(std::string_view name) {
  const bool is_text = name.find('\0') == std::string_view::npos;
  const CellInfo* info = is_text ? find_cell(std::string(name).c_str()) : nullptr;
  if (info == nullptr) {
    std::string names;
    for (const CellInfo& known : kCells) names += c10::str(names.empty() ? "" : ", ", known.name);
    TORCH_CHECK_VALUE(false, "cell: expected one of ", names, ", got ", name);
  }
  return *info;
}

void check_buffers(int64_t seq_len, int64_t batch_size, int64_t input_size, int64_t hidden_size) {
  constexpr double kMostElements = 1LL << 52;  // leaves room for gates, directions and bytes
  const double width = static_cast<double>(input_size) + static_cast<double>(hidden_size);
  const double rows = static_cast<double>(seq_len) * static_cast<double>(batch_size);
  const double weights = width * static_cast<double>(hidden_size);
  TORCH_CHECK_VALUE(std::max({rows * width, rows, weights, width}) <= kMostElements,
                    "input, weight_hh: expected a layer of at most 2^52 elements, got seq_len ",
                    seq_len, ", batch_size ", batch_size, ", input_size ", input_size,
                    ", hidden_size ", hidden_size);
}

DType check_dtype(const char* name, at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return DType::kFloat32;
    case at::kDouble:
      return DType::kFloat64;
    case at::kBFloat16:
      return DType::kBFloat16;
    case at::kHalf:
      return DType::kFloat16;
    default:
      TORCH_CHECK(false, name, ": expected float32, float64, bfloat16 or float16, got ",
                  dtype_name(dtype));
  }
}

at::DimVector CheckedLayer::output_shape() const {
  const int64_t width = directions * output_size();
  return sequence.batch_sizes.has_value() ? at::DimVector{total_rows, width}
                                          : at::DimVector{seq_len, batch_size, width};
}

at::DimVector CheckedLayer::h_shape() const { return {directions, batch_size, output_size()}; }

at::DimVector CheckedLayer::c_shape() const {
  return cell.states == 2 ? at::DimVector{directions, batch_size, hidden_size} : at::DimVector{0};
}

at::DimVector CheckedLayer::rows_shape(int64_t width) const {
  return sequence.batch_sizes.has_value() ? at::DimVector{directions, total_rows, width}
                                          : at::DimVector{directions, seq_len, batch_size, width};
}

at::DimVector CheckedLayer::saved_shape() const {
  if (is_composed) return {0};
  if (recompute > 0) {
    return {directions, ceil_div(seq_len, recompute), batch_size, (cell.states - 1) * hidden_size};
  }
  at::DimVector shape = rows_shape(cell.saved_width());
  shape.push_back(hidden_size);
  return shape;
}

at::ScalarType CheckedLayer::saved_dtype() const {
  const at::ScalarType storage = tensors[kInput]->scalar_type();
  return recompute > 0 && !is_composed && storage != at::kDouble ? at::kFloat : storage;
}

WeightFormat check_format(const char* name, at::ScalarType dtype) {
  switch (dtype) {
    case at::kBFloat16:
      return WeightFormat::kBFloat16;
    case at::kHalf:
      return WeightFormat::kFloat16;
    case at::kChar:
      return WeightFormat::kInt8;
    default:
      TORCH_CHECK(false, name, ": expected bfloat16, float16 or int8, got ", dtype_name(dtype));
  }
}

CheckedLayer check_layer(LayerPlaces&& places, int64_t recompute, Means means) {
  CheckedLayer layer;
  layer.cell = *places.cell;
  layer.tensors = std::move(places.tensors);
  layer.sequence = std::move(places.sequence);
  const Tensor& input = *layer.tensors[kInput];
  check_given("input", input);
  layer.is_composed = means == Means::kComposition || input.is_complex();
  layer.dtype = input.is_complex() ? DType::kFloat32 : check_dtype("input", input.scalar_type());
  check_kinds(layer.tensors, input.scalar_type());
  TORCH_CHECK_VALUE(recompute >= 0, "recompute: expected 0 or a number of steps, got ", recompute);
  check_sizes(layer);
  layer.recompute = std::min(recompute, layer.seq_len);
  return layer;
}

CheckedLayer check_quantized_layer(const LayerGiven& given) {
  LayerPlaces places = to_places(given);
  CheckedLayer layer;
  layer.cell = *places.cell;
  layer.tensors = std::move(places.tensors);
  layer.sequence = std::move(places.sequence);
  const Tensor& input = *layer.tensors[kInput];
  check_given("input", input);
  TORCH_CHECK(input.scalar_type() == at::kFloat,
              "input: expected dtype float32, as quantized weights need, got ",
              dtype_name(input.scalar_type()), "; convert it with input.float()");
  layer.dtype = DType::kFloat32;
  layer.is_composed = false;
  const at::ScalarType stored = layer.weight(0, kWeightIh)->scalar_type();
  layer.format = check_format("weight_ih", stored);
  check_kinds(layer.tensors, stored);
  layer.recompute = 0;
  layer.scales = std::move(places.scales);
  check_sizes(layer);
  for (int place = 0; place < 2 * kScaleCount; ++place) {
    OptionalTensor& scale = layer.scales[place];
    if (!scale.has_value()) continue;
    const OptionalTensor& weight = layer.weight(place / kScaleCount, kScaled[place % kScaleCount]);
    check_kind(kScaleNames[place], *scale, input);
    check_shape(kScaleNames[place], *scale, {weight->size(0)}, "(rows of the weight,)", 0);
    scale = scale->contiguous();
  }
  return layer;
}

CheckedGrads check_grads(const CheckedLayer& layer, const BackwardArgs& args) {
  const Tensor& input = *layer.tensors[kInput];
  auto check = [&](const char* name, const Tensor& tensor, at::IntArrayRef shape,
                   at::ScalarType dtype, const char* formula) {
    check_kind(name, tensor, input, dtype);
    check_shape(name, tensor, shape, formula, 0);
    return tensor.contiguous();
  };
  const at::ScalarType dtype = input.scalar_type();
  CheckedGrads checked;
  checked.output = check("kept_output", args.kept_output, layer.output_shape(), dtype,
                         "that layer_forward gave with save=True");
  checked.saved = check("saved", args.saved, layer.saved_shape(), layer.saved_dtype(),
                        "that layer_forward gave with save=True");
  const bool has_c = layer.cell.states == 2;
  const char* names[kOutputCount] = {"grad_output", "grad_h_n", "grad_c_n", "grad_c"};
  const char* formulas[kOutputCount] = {"of output", "of h_n", "of c_n", "of c"};
  const at::DimVector shapes[kOutputCount] = {layer.output_shape(), layer.h_shape(),
                                              layer.c_shape(), layer.rows_shape(layer.hidden_size)};
  for (int i = 0; i < kOutputCount; ++i) {
    if (!args.grads[i].has_value() || (!has_c && (i == kCN || i == kC))) continue;
    checked.grads[i] = check(names[i], *args.grads[i], shapes[i], dtype, formulas[i]);
  }
  return checked;
}

}  // namespace fusedrnn
