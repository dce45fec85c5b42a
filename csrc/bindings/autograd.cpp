// Gradients of the operators, as graph nodes in the manner of torch's generated ones.
// torch::autograd::Function would be shorter, but torch.func's transforms refuse it.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
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

// Each tensor as a node of its own, so that two arguments that are one tensor stay apart.
template <size_t N>
std::array<OptionalTensor, N> alias_all(std::array<OptionalTensor, N> tensors) {
  for (OptionalTensor& tensor : tensors) {
    if (tensor.has_value()) tensor = tensor->view_as(*tensor);
  }
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

// What both nodes need of a layer, and the way torch frees it.
struct LayerNode : Node {
  std::string cell;
  SavedArray<kLayerTensorCount> tensors;
  SavedArray<3> sequence;

  void save_layer(std::string_view cell_name, const LayerTensors& layer, const Sequence& given) {
    cell = cell_name;
    save_all(layer, tensors);
    save_all(std::array{given.batch_sizes, given.lengths, given.reset}, sequence);
  }

  Sequence unpack_sequence() const {
    auto [batch_sizes, lengths, reset] = unpack_all(sequence);
    return {std::move(batch_sizes), std::move(lengths), std::move(reset)};
  }

  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    for (SavedVariable& tensor : tensors) tensor.reset_data();
    for (SavedVariable& tensor : sequence) tensor.reset_data();
    release_others();
  }
  virtual void release_others() = 0;
};

struct LayerDoubleBackward final : LayerNode {
  SavedArray<kOutputCount> saved_grads;

  std::string name() const override { return "fusedrnn::LayerDoubleBackward"; }

  void release_others() override {
    for (SavedVariable& grad : saved_grads) grad.reset_data();
  }

  variable_list apply(variable_list&& grad_grads) override {
    std::lock_guard<std::mutex> lock(mutex_);
    const bool create_graph = at::GradMode::is_enabled();
    const at::AutoGradMode enable_grad(true);
    const OutputGrads output_grads = alias_all(unpack_all(saved_grads));
    const LayerTensors layer = alias_all(unpack_all(tensors));
    const LayerGrads gradients =
        composite_layer_backward(cell, output_grads, layer, unpack_sequence());
    variable_list outputs, output_cotangents, inputs;
    for (int i = 0; i < kGradCount; ++i) {
      if (!grad_grads[i].defined() || !gradients[i].requires_grad()) continue;
      outputs.push_back(gradients[i]);
      output_cotangents.push_back(grad_grads[i]);
    }
    variable_list result(kOutputCount + kLayerTensorCount);
    if (outputs.empty()) return result;

    std::vector<size_t> positions;
    for (size_t i = 0; i < result.size(); ++i) {
      const OptionalTensor& tensor = i < kOutputCount ? output_grads[i] : layer[i - kOutputCount];
      if (!task_should_compute_output(i) || !tensor.has_value()) continue;
      inputs.push_back(*tensor);
      positions.push_back(i);
    }
    const variable_list computed =
        torch::autograd::grad(outputs, inputs, output_cotangents, /*retain_graph=*/create_graph,
                              create_graph, /*allow_unused=*/true);
    for (size_t i = 0; i < positions.size(); ++i) result[positions[i]] = computed[i];
    return result;
  }
};

struct LayerBackward final : LayerNode {
  int64_t recompute;
  SavedVariable output;
  SavedVariable saved;

  std::string name() const override { return "fusedrnn::LayerBackward"; }

  void release_others() override {
    output.reset_data();
    saved.reset_data();
  }

  variable_list apply(variable_list&& grads) override {
    std::lock_guard<std::mutex> lock(mutex_);
    variable_list result(kLayerTensorCount);
    if (std::none_of(grads.begin(), grads.end(), [](const Tensor& g) { return g.defined(); })) {
      return result;
    }
    OutputGrads output_grads;
    for (int i = 0; i < kOutputCount; ++i) output_grads[i] = to_optional(std::move(grads[i]));
    const LayerTensors layer = unpack_all(tensors);
    GradMask mask{};
    for (int i = 0; i < kLayerTensorCount; ++i) {
      mask[i] = layer[i].has_value() && task_should_compute_output(i);
    }
    LayerGrads gradients =
        call_layer_backward(cell, output_grads, layer, unpack_sequence(), recompute,
                            output.unpack(getptr()), saved.unpack(), mask);
    for (int i = 0; i < kLayerTensorCount; ++i) {
      if (mask[i]) result[i] = std::move(gradients[i]);
    }
    return result;
  }
};

ForwardResult layer_forward(std::string_view cell, const LayerTensors& tensors,
                            const Sequence& sequence, const Keep& keep) {
  if (any_forward_gradient(tensors)) {
    return composite_layer_forward(cell, tensors, sequence, keep.return_c);
  }
  const bool needs_grad = any_requires_grad(tensors);
  ForwardResult result;
  {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    result = call_layer_forward(cell, tensors, sequence,
                                {keep.save || needs_grad, keep.return_c, keep.recompute});
  }
  if (!needs_grad) return result;

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
  node->output = SavedVariable(result.outputs[kOutput], /*is_output=*/true);
  node->saved = SavedVariable(result.saved, /*is_output=*/false);
  return result;
}

LayerGrads layer_backward(std::string_view cell, const OutputGrads& grads,
                          const LayerTensors& tensors, const Sequence& sequence, int64_t recompute,
                          const Tensor& output, const Tensor& saved, const GradMask& mask) {
  if (any_forward_gradient(grads) || any_forward_gradient(tensors)) {
    LayerGrads result = composite_layer_backward(cell, grads, tensors, sequence);
    for (int i = 0; i < kGradCount; ++i) {
      const bool wanted = mask[i] && (i >= kLayerTensorCount || tensors[i].has_value());
      if (!wanted) result[i] = at::empty({0}, tensors[kInput]->options());
    }
    return result;
  }
  const bool needs_grad = any_requires_grad(grads) || any_requires_grad(tensors);
  LayerGrads result;
  {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    result = call_layer_backward(cell, grads, tensors, sequence, recompute, output, saved, mask);
  }
  if (!needs_grad) return result;

  auto node = make_node<LayerDoubleBackward>();
  node->set_next_edges(std::apply(
      [](const auto&... tensor) { return torch::autograd::collect_next_edges(tensor...); },
      std::tuple_cat(grads, tensors)));
  node->save_layer(cell, tensors, sequence);
  save_all(grads, node->saved_grads);
  for (int i = 0; i < kGradCount; ++i) {
    torch::autograd::set_history(mask[i] ? result[i] : Tensor(), node);
  }
  return result;
}

}  // namespace

TORCH_LIBRARY_IMPL(fusedrnn, Autograd, m) {
  m.impl("layer_forward", TORCH_FN(forward_kernel<layer_forward>));
  m.impl("layer_backward", TORCH_FN(backward_kernel<layer_backward>));
}

}  // namespace fusedrnn
