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
std::array<OptionalTensor, N> unpack_all(const SavedArray<N>& saved) {
  std::array<OptionalTensor, N> tensors;
  for (size_t i = 0; i < N; ++i) tensors[i] = to_optional(saved[i].unpack());
  return tensors;
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

// What both nodes need of a layer, the way torch frees it, and the way compiled autograd traces
// them: as the operators and compositions that apply calls.
struct LayerNode : Node {
  std::string cell;
  int64_t recompute = 0;
  SavedArray<kLayerTensorCount> tensors;
  SavedArray<3> sequence;
  SavedArray<kOutputCount> others;  // a node's own

  void save_layer(std::string_view cell_name, const LayerTensors& layer, const Sequence& given) {
    cell = cell_name;
    save_all(layer, tensors);
    save_all(std::array{given.batch_sizes, given.lengths, given.reset}, sequence);
  }

  virtual const SavedVariable* output_of_node() const { return nullptr; }

  Sequence unpack_sequence() const {
    auto [batch_sizes, lengths, reset] = unpack_all(sequence);
    return {std::move(batch_sizes), std::move(lengths), std::move(reset)};
  }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    for_each_saved(*this, [](SavedVariable& tensor) { tensor.reset_data(); });
  }

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& args) const override {
    args.collect(cell);
    args.collect(recompute);
    for_each_saved(*this, [&](const SavedVariable& tensor) {
      args.collect(tensor, &tensor == output_of_node());
    });
  }

  variable_list apply_with_saved(const variable_list& inputs,
                                 torch::dynamo::autograd::SwapSavedVariables& swap) override {
    for_each_saved(*this, [&](SavedVariable& tensor) { swap.before(tensor); });
    variable_list result = apply(variable_list(inputs));
    for_each_saved(*this, [&](SavedVariable& tensor) { swap.after(tensor); });
    return result;
  }

 private:
  template <class Node, class Function>
  static void for_each_saved(Node& node, const Function& function) {
    for (auto& tensor : node.tensors) function(tensor);
    for (auto& tensor : node.sequence) function(tensor);
    for (auto& tensor : node.others) function(tensor);
  }
};

// The gradients g of a layer are linear in the gradients of its results and, for each of these, the
// gradient of one number: their second derivative along a direction, grad_grads, gives both of its
// own gradients, that of the results and, because it is symmetric, that of the layer's tensors.
// No graph is recorded for it, so it does not matter which levels of torch.func have ended.
struct LayerDoubleBackward final : LayerNode {
  std::string name() const override { return "fusedrnn::LayerDoubleBackward"; }

  variable_list apply(variable_list&& grad_grads) override {
    std::lock_guard<std::mutex> lock(mutex_);
    variable_list result(kOutputCount + kLayerTensorCount);
    if (std::none_of(grad_grads.begin(), grad_grads.end(),
                     [](const Tensor& g) { return g.defined(); })) {
      return result;
    }
    const OutputGrads output_grads = unpack_all(others);
    const LayerTensors values = unpack_all(tensors);
    CompositeLayer layer;
    bool wants_tensors = false;
    for (int i = 0; i < kLayerTensorCount; ++i) {
      if (!values[i].has_value()) continue;
      layer.tensors[i] = {*values[i], grad_grads[i]};
      wants_tensors = wants_tensors || task_should_compute_output(kOutputCount + i);
    }
    layer.gates_x = grad_grads[kGradGatesX];
    layer.gates_r = grad_grads[kGradGatesR];
    CompositeBackward second;
    if (wants_tensors) {
      DualOutputs grads;
      for (int i = 0; i < kOutputCount; ++i) grads[i] = output_grads[i].value_or(Tensor());
      second = composite_backward(cell, grads, layer, unpack_sequence());
    } else {
      second.outputs =
          composite_forward(cell, layer, unpack_sequence(), output_grads[kC].has_value());
    }
    for (int i = 0; i < kOutputCount; ++i) {
      if (output_grads[i].has_value()) result[i] = second.outputs[i].slope;
    }
    for (int i = 0; i < kLayerTensorCount; ++i) {
      if (values[i].has_value()) result[kOutputCount + i] = second.grads[i].slope;
    }
    return result;
  }
};

// Its results are those of the layer and kept_output, which as a function is the output again: a
// gradient that a rule of torch.vmap composes from it has derivatives as well.
struct LayerBackward final : LayerNode {
  SavedVariable& kept_output = others[0];
  SavedVariable& saved = others[1];

  std::string name() const override { return "fusedrnn::LayerBackward"; }
  const SavedVariable* output_of_node() const override { return &kept_output; }

  variable_list apply(variable_list&& grads) override {
    std::lock_guard<std::mutex> lock(mutex_);
    variable_list result(kLayerTensorCount);
    if (std::none_of(grads.begin(), grads.end(), [](const Tensor& g) { return g.defined(); })) {
      return result;
    }
    OutputGrads output_grads;
    grads[kOutput] = defined_sum(grads[kOutput], grads[kOutputCount]);
    for (int i = 0; i < kOutputCount; ++i) output_grads[i] = to_optional(std::move(grads[i]));
    const LayerTensors layer = unpack_all(tensors);
    GradMask mask{};
    for (int i = 0; i < kLayerTensorCount; ++i) {
      mask[i] = layer[i].has_value() && task_should_compute_output(i);
    }
    LayerGrads gradients =
        call_layer_backward(cell, output_grads, layer, unpack_sequence(), recompute,
                            kept_output.unpack(getptr()), saved.unpack(), mask);
    for (int i = 0; i < kLayerTensorCount; ++i) {
      if (mask[i]) result[i] = std::move(gradients[i]);
    }
    return result;
  }
};

ForwardResult layer_forward(std::string_view cell, const LayerTensors& tensors,
                            const Sequence& sequence, const Keep& keep) {
  const bool needs_grad = any_requires_grad(tensors);
  ForwardResult result;
  {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    result = call_layer_forward(cell, tensors, sequence,
                                {keep.save || needs_grad, keep.return_c, keep.recompute});
  }
  if (needs_grad) {
    auto node = make_node<LayerBackward>();
    node->set_next_edges(std::apply(
        [](const auto&... tensor) { return torch::autograd::collect_next_edges(tensor...); },
        tensors));
    node->save_layer(cell, tensors, sequence);
    node->recompute = keep.recompute;
    for (const Tensor& output : result.outputs) {
      // What a cell without c, or a call that does not ask for it, has in the place of c.
      const bool is_absent = output.dim() == 1;
      torch::autograd::set_history(is_absent ? Tensor() : output, node);
    }
    torch::autograd::set_history(result.kept_output, node);
    node->kept_output = SavedVariable(result.kept_output, /*is_output=*/true);
    node->saved = SavedVariable(result.saved, /*is_output=*/false);
  }
  if (any_forward_gradient(tensors)) {
    const DualOutputs duals =
        composite_forward(cell, {unpack_forward_gradients(tensors)}, sequence, keep.return_c);
    for (int i = 0; i < kOutputCount; ++i) set_forward_gradient(duals[i], result.outputs[i]);
    if (result.kept_output.dim() > 1) set_forward_gradient(duals[kOutput], result.kept_output);
  }
  return result;
}

LayerGrads layer_backward(std::string_view cell, const OutputGrads& grads,
                          const LayerTensors& tensors, const Sequence& sequence, int64_t recompute,
                          const Tensor& kept_output, const Tensor& saved, const GradMask& mask) {
  const bool needs_grad = any_requires_grad(grads) || any_requires_grad(tensors);
  LayerGrads result;
  {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    result =
        call_layer_backward(cell, grads, tensors, sequence, recompute, kept_output, saved, mask);
  }
  if (needs_grad) {
    auto node = make_node<LayerDoubleBackward>();
    node->set_next_edges(std::apply(
        [](const auto&... tensor) { return torch::autograd::collect_next_edges(tensor...); },
        std::tuple_cat(grads, tensors)));
    node->save_layer(cell, tensors, sequence);
    save_all(grads, node->others);
    for (int i = 0; i < kGradCount; ++i) {
      torch::autograd::set_history(mask[i] ? result[i] : Tensor(), node);
    }
  }
  if (any_forward_gradient(grads) || any_forward_gradient(tensors)) {
    const DualGrads duals = composite_backward(cell, unpack_forward_gradients(grads),
                                               {unpack_forward_gradients(tensors)}, sequence)
                                .grads;
    for (int i = 0; i < kGradCount; ++i) {
      const bool wanted = mask[i] && (i >= kLayerTensorCount || tensors[i].has_value());
      if (wanted) set_forward_gradient(duals[i], result[i]);
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
