// Gradients of the operators, as graph nodes in the manner of torch's generated ones.
// torch::autograd::Function would be shorter, but torch.func's transforms refuse it.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>
#include <torch/library.h>

#include <algorithm>
#include <mutex>
#include <string>

#include "bindings/composite.h"
#include "bindings/schema.h"

namespace torch::autograd {
// Declared by torch below 2.13, where nodes are held by shared_ptr.
TORCH_API void deleteNode(Node* function);
}  // namespace torch::autograd

namespace fusedrnn {
namespace {

using torch::autograd::Edge;
using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

template <class N, class Pointer = decltype(Edge::function)>
auto make_node() {
  if constexpr (std::is_same_v<Pointer, std::shared_ptr<Node>>) {
    return std::shared_ptr<N>(new N, torch::autograd::deleteNode);
  } else {
    return c10::make_intrusive<N>();
  }
}

OptionalTensor to_optional(Tensor tensor) {
  return tensor.defined() ? OptionalTensor(std::move(tensor)) : std::nullopt;
}

template <size_t N>
using SavedArray = std::array<SavedVariable, N>;

template <size_t N>
void save_all(const std::array<OptionalTensor, N>& tensors, SavedArray<N>& saved) {
  for (size_t i = 0; i < N; ++i) {
    if (tensors[i].has_value()) saved[i] = SavedVariable(*tensors[i], /*is_output=*/false);
  }
}

template <size_t N>
bool any_requires_grad(const std::array<OptionalTensor, N>& tensors) {
  return at::GradMode::is_enabled() &&
         std::any_of(tensors.begin(), tensors.end(), [](const OptionalTensor& tensor) {
           return tensor.has_value() && tensor->requires_grad();
         });
}

template <size_t N>
bool any_forward_gradient(const std::array<OptionalTensor, N>& tensors) {
  return std::any_of(tensors.begin(), tensors.end(), [](const OptionalTensor& tensor) {
    return tensor.has_value() && torch::autograd::isFwGradDefined(*tensor);
  });
}

template <class Predicate>
bool any_tensor(const LayerGiven& layer, const Predicate& predicate) {
  const auto holds = [&](const OptionalTensor& tensor) {
    return tensor.has_value() && predicate(*tensor);
  };
  return predicate(layer.input) || holds(layer.h_0) || holds(layer.c_0) || holds(layer.reset_h) ||
         holds(layer.reset_c) || std::any_of(layer.weights.begin(), layer.weights.end(), predicate);
}
bool any_requires_grad(const LayerGiven& layer) {
  return at::GradMode::is_enabled() &&
         any_tensor(layer, [](const Tensor& tensor) { return tensor.requires_grad(); });
}
bool any_forward_gradient(const LayerGiven& layer) {
  return any_tensor(layer,
                    [](const Tensor& tensor) { return torch::autograd::isFwGradDefined(tensor); });
}

// Tensors with their derivatives in forward mode.
template <size_t N>
std::array<Dual, N> unpack_forward_gradients(const std::array<OptionalTensor, N>& tensors) {
  std::array<Dual, N> duals;
  for (size_t i = 0; i < N; ++i) {
    if (!tensors[i].has_value()) continue;
    const bool has_slope = torch::autograd::isFwGradDefined(*tensors[i]);
    duals[i].value = has_slope ? tensors[i]->_fw_primal(/*level=*/0) : *tensors[i];
    if (has_slope) duals[i].slope = tensors[i]->_fw_grad(/*level=*/0);
  }
  return duals;
}

void set_forward_gradient(const Dual& dual, const Tensor& result) {
  if (!dual.slope.defined()) return;
  result._set_fw_grad(dual.slope, /*level=*/0, /*is_inplace_op=*/false);
}

// What both nodes keep: the layer, and tensors of their own.
template <class Tensors, class Three, class Own>
struct Kept {
  std::string cell;
  int64_t recompute = 0;
  Tensors tensors;  // kLayerTensorCount
  Three sequence;   // batch_sizes, lengths, reset
  Own others;       // kOutputCount

  template <class Self, class Function>
  static void for_each(Self& kept, const Function& function) {
    for (auto& tensor : kept.tensors) function(tensor);
    for (auto& tensor : kept.sequence) function(tensor);
    for (auto& tensor : kept.others) function(tensor);
  }
};
using KeptTensors = Kept<LayerTensors, std::array<OptionalTensor, 3>, OutputGrads>;
using KeptVariables = Kept<SavedArray<kLayerTensorCount>, SavedArray<3>, SavedArray<kOutputCount>>;

// A node computes the gradients of its inputs, those that are wanted, from those of its results.
using Compute = variable_list (*)(variable_list&& grads, const KeptTensors& kept,
                                  const std::vector<bool>& wanted);

Sequence sequence_of(const KeptTensors& kept) {
  return {kept.sequence[0], kept.sequence[1], kept.sequence[2]};
}

bool none_defined(const variable_list& grads) {
  return std::none_of(grads.begin(), grads.end(), [](const Tensor& g) { return g.defined(); });
}

// `compute` as compiled autograd calls it, with what pack_for_trace packed.
template <Compute compute>
variable_list compute_packed(const variable_list& grads, const std::vector<c10::IValue>& values) {
  torch::dynamo::autograd::PackedArgs args(values);
  KeptTensors kept;
  kept.cell = args.unpack<std::string>();
  kept.recompute = args.unpack<int64_t>();
  const auto wanted = args.unpack<std::vector<bool>>();
  const auto present = args.unpack<std::vector<bool>>();
  const auto tensors = args.unpack<std::vector<Tensor>>();
  auto is_present = present.begin();
  auto tensor = tensors.begin();
  KeptTensors::for_each(kept, [&](OptionalTensor& place) {
    if (*is_present++) place = *tensor++;
  });
  return compute(variable_list(grads), kept, wanted);
}

// The way torch runs and frees a node, and the way compiled autograd traces it: as the operators
// that it calls.
template <Compute compute>
struct LayerNode : Node {
  KeptVariables kept;
  const SavedVariable* own_result = nullptr;  // that of them which the node's forward computed

  void keep(std::string_view cell, const LayerTensors& layer, const Sequence& sequence) {
    kept.cell = cell;
    save_all(layer, kept.tensors);
    save_all(std::array{sequence.batch_sizes, sequence.lengths, sequence.reset}, kept.sequence);
  }

  variable_list apply(variable_list&& grads) override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (none_defined(grads)) return variable_list(num_outputs());
    return compute(std::move(grads), unpack(), wanted());
  }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    KeptVariables::for_each(kept, [](SavedVariable& variable) { variable.reset_data(); });
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    args.collect(kept.cell);
    args.collect(kept.recompute);
    KeptVariables::for_each(kept, [&](const SavedVariable& variable) {
      args.collect(variable, &variable == own_result);
    });
  }

  variable_list apply_with_saved(const variable_list& grads,
                                 torch::dynamo::autograd::SwapSavedVariables& swap) override {
    using torch::dynamo::autograd::IValuePacker;
    KeptVariables::for_each(kept, [&](SavedVariable& variable) { swap.before(variable); });
    const std::vector<c10::IValue> values = pack_for_trace();
    std::vector<at::TypePtr> schema;
    for (const c10::IValue& value : values) schema.push_back(value.type());
    const auto& compiler = torch::dynamo::autograd::getPyCompilerInterface();
    const std::string function =
        compiler->bind_function(swap.get_py_compiler(), name(), compute_packed<compute>, schema,
                                /*is_custom_function=*/true, /*is_traceable=*/true);
    variable_list result = compiler->call_function(
        swap.get_py_compiler(), "apply_functional", function, grads, values,
        IValuePacker<std::vector<std::optional<torch::autograd::InputMetadata>>>::pack(
            torch::dynamo::autograd::get_input_metadata(next_edges())));
    KeptVariables::for_each(kept, [&](SavedVariable& variable) { swap.after(variable); });
    return result;
  }

 private:
  KeptTensors unpack() {
    KeptTensors tensors;
    tensors.cell = kept.cell;
    tensors.recompute = kept.recompute;
    tensors.tensors = unpack_array(kept.tensors);
    tensors.sequence = unpack_array(kept.sequence);
    tensors.others = unpack_array(kept.others);
    return tensors;
  }

  template <size_t N>
  std::array<OptionalTensor, N> unpack_array(const SavedArray<N>& saved) {
    std::array<OptionalTensor, N> tensors;
    for (size_t i = 0; i < N; ++i) {
      tensors[i] =
          to_optional(&saved[i] == own_result ? saved[i].unpack(getptr()) : saved[i].unpack());
    }
    return tensors;
  }

  std::vector<bool> wanted() const {
    std::vector<bool> wanted(num_outputs());
    for (size_t i = 0; i < wanted.size(); ++i) wanted[i] = task_should_compute_output(i);
    return wanted;
  }

  std::vector<c10::IValue> pack_for_trace() {
    const KeptTensors tensors = unpack();
    std::vector<bool> present;
    std::vector<Tensor> given;
    KeptTensors::for_each(tensors, [&](const OptionalTensor& tensor) {
      present.push_back(tensor.has_value());
      if (tensor.has_value()) given.push_back(*tensor);
    });
    torch::dynamo::autograd::PackedArgs args;
    args.pack(tensors.cell);
    args.pack(tensors.recompute);
    args.pack(wanted());
    args.pack(present);
    args.pack(given);
    return args.vec();
  }
};

// The gradients of a layer are linear in those of its results and, for each of these, the gradient
// of one number: their derivative along a direction, grad_grads, gives both of their own gradients,
// that of the results' and, because a second derivative is symmetric, that of the layer's tensors.
// No graph is recorded for it, so it does not matter which levels of torch.func have ended.
variable_list compute_second(variable_list&& grad_grads, const KeptTensors& kept,
                             const std::vector<bool>& wanted) {
  variable_list result(kOutputCount + kLayerTensorCount);
  CompositeLayer layer;
  bool wants_tensors = false;
  for (int i = 0; i < kLayerTensorCount; ++i) {
    if (!kept.tensors[i].has_value()) continue;
    layer.tensors[i] = {*kept.tensors[i], grad_grads[i]};
    wants_tensors = wants_tensors || wanted[kOutputCount + i];
  }
  layer.gates_x = grad_grads[kGradGatesX];
  layer.gates_r = grad_grads[kGradGatesR];
  CompositeBackward second;
  if (wants_tensors) {
    DualOutputs grads;
    for (int i = 0; i < kOutputCount; ++i) grads[i] = kept.others[i].value_or(Tensor());
    second = composite_backward(kept.cell, grads, layer, sequence_of(kept));
  } else {
    second.outputs =
        composite_forward(kept.cell, layer, sequence_of(kept), kept.others[kC].has_value());
  }
  // A gradient that is wanted is defined: traces of compiled autograd add them up.
  for (int i = 0; i < kOutputCount; ++i) {
    if (kept.others[i].has_value() && wanted[i]) result[i] = second.outputs[i].slope_or_zeros();
  }
  for (int i = 0; i < kLayerTensorCount; ++i) {
    if (!kept.tensors[i].has_value() || !wanted[kOutputCount + i]) continue;
    result[kOutputCount + i] = second.grads[i].slope_or_zeros();
  }
  return result;
}

struct LayerDoubleBackward final : LayerNode<compute_second> {
  std::string name() const override { return "fusedrnn::LayerDoubleBackward"; }
};

// The results of a LayerBackward's forward are those of the layer and kept_output, which as a
// function is the output again: a gradient that a rule of torch.vmap composes from it has
// derivatives as well.
enum : int { kKeptOutput, kSaved };  // among what it keeps of its own

variable_list compute_first(variable_list&& grads, const KeptTensors& kept,
                            const std::vector<bool>& wanted) {
  OutputGrads output_grads;
  grads[kOutput] = defined_sum(grads[kOutput], grads[kOutputCount]);
  for (int i = 0; i < kOutputCount; ++i) output_grads[i] = to_optional(std::move(grads[i]));
  GradMask mask{};
  for (int i = 0; i < kLayerTensorCount; ++i) mask[i] = kept.tensors[i].has_value() && wanted[i];
  LayerGrads gradients =
      call_layer_backward({kept.cell, std::move(output_grads), kept.tensors, sequence_of(kept),
                           kept.recompute, *kept.others[kSaved], *kept.others[kKeptOutput], mask});
  return {gradients.begin(), gradients.begin() + kLayerTensorCount};
}

struct LayerBackward final : LayerNode<compute_first> {
  std::string name() const override { return "fusedrnn::LayerBackward"; }
};

ForwardResult layer_forward(const LayerGiven& layer, const Keep& keep) {
  const bool needs_grad = any_requires_grad(layer);
  ForwardResult result;
  {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    result = call_layer_forward(layer, {keep.save || needs_grad, keep.return_c, keep.recompute});
  }
  const bool has_forward_gradient = any_forward_gradient(layer);
  if (!needs_grad && !has_forward_gradient) return result;
  const auto [cell, tensors, sequence, no_scales] = to_places(layer);
  if (needs_grad) {
    auto node = make_node<LayerBackward>();
    node->set_next_edges(std::apply(
        [](const auto&... tensor) { return torch::autograd::collect_next_edges(tensor...); },
        tensors));
    node->keep(layer.cell, tensors, sequence);
    node->kept.recompute = keep.recompute;
    for (const Tensor& output : result.outputs) {
      // What a cell without c, or a call that does not ask for it, has in the place of c.
      const bool is_absent = output.dim() == 1;
      torch::autograd::set_history(is_absent ? Tensor() : output, node);
    }
    torch::autograd::set_history(result.kept_output, node);
    node->kept.others[kKeptOutput] = SavedVariable(result.kept_output, /*is_output=*/true);
    node->own_result = &node->kept.others[kKeptOutput];
    node->kept.others[kSaved] = SavedVariable(result.saved, /*is_output=*/false);
  }
  if (has_forward_gradient) {
    const DualOutputs duals =
        composite_forward(layer.cell, {unpack_forward_gradients(tensors)}, sequence, keep.return_c);
    for (int i = 0; i < kOutputCount; ++i) set_forward_gradient(duals[i], result.outputs[i]);
    if (result.kept_output.dim() > 1) set_forward_gradient(duals[kOutput], result.kept_output);
  }
  return result;
}

LayerGrads layer_backward(const BackwardArgs& args) {
  const OutputGrads& grads = args.grads;
  const LayerTensors& tensors = args.tensors;
  const bool needs_grad = any_requires_grad(grads) || any_requires_grad(tensors);
  LayerGrads result;
  {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    result = call_layer_backward(args);
  }
  if (needs_grad) {
    auto node = make_node<LayerDoubleBackward>();
    node->set_next_edges(std::apply(
        [](const auto&... tensor) { return torch::autograd::collect_next_edges(tensor...); },
        std::tuple_cat(grads, tensors)));
    node->keep(args.cell, tensors, args.sequence);
    save_all(grads, node->kept.others);
    for (const Tensor& grad : result) torch::autograd::set_history(grad, node);
  }
  if (any_forward_gradient(grads) || any_forward_gradient(tensors)) {
    const DualGrads duals = composite_backward(args.cell, unpack_forward_gradients(grads),
                                               {unpack_forward_gradients(tensors)}, args.sequence)
                                .grads;
    for (int i = 0; i < kGradCount; ++i) {
      if (args.mask[i]) set_forward_gradient(duals[i], result[i]);
    }
  }
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(fusedrnn, Autograd, m) {
  m.impl("layer_forward", TORCH_FN(forward_kernel<layer_forward>));
  m.impl("layer_backward", TORCH_FN(backward_kernel<layer_backward>));
}

}  // namespace fusedrnn
