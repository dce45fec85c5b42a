// The operators under the vmap of torch.autograd.grad(is_grads_batched=True), which is not that of
// torch.vmap and has no fallback for operators that take lists: they run sample after sample.
#include <ATen/LegacyVmapTransforms.h>
#include <ATen/core/stack.h>
#include <ATen/ops/stack.h>
#include <torch/library.h>

#include <vector>

namespace {

using at::Tensor;
using c10::IValue;

// The value with each tensor in it, lists included, replaced by change(tensor).
template <class Change>
IValue map_tensors(const IValue& value, const Change& change) {
  if (value.isTensor()) {
    return value.toTensor().defined() ? IValue(change(value.toTensor())) : value;
  }
  if (value.isTensorList()) {
    c10::List<Tensor> changed;
    for (const Tensor& tensor : value.toTensorVector()) changed.push_back(change(tensor));
    return changed;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> changed;
    for (const std::optional<Tensor>& tensor : value.toOptionalTensorVector()) {
      changed.push_back(tensor.has_value() ? std::optional(change(*tensor)) : std::nullopt);
    }
    return changed;
  }
  return value;
}

void run_each_sample(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const std::vector<IValue> args = torch::jit::pop(*stack, op.schema().arguments().size());
  std::vector<Tensor> tensors;
  const auto collect = [&](const Tensor& tensor) {
    tensors.push_back(tensor);
    return tensor;
  };
  for (const IValue& arg : args) map_tensors(arg, collect);
  const at::VmapPhysicalViewVec views = at::MultiBatchVmapTransform::logicalToPhysical(tensors);
  const int64_t batch_dims = views[0].numBatchDims();
  const std::vector<int64_t> batch = views[0].tensor().sizes().slice(0, batch_dims).vec();

  std::vector<std::vector<IValue>> results;  // of each sample
  for (int64_t sample = 0; sample < c10::multiply_integers(batch); ++sample) {
    torch::jit::Stack call;
    auto view = views.begin();
    const auto select_sample = [&](const Tensor&) {
      return (view++)->tensor().flatten(0, batch_dims - 1).select(0, sample);
    };
    for (const IValue& arg : args) call.push_back(map_tensors(arg, select_sample));
    op.callBoxed(&call);
    results.push_back(std::move(call));
  }
  for (size_t i = 0; i < op.schema().returns().size(); ++i) {
    std::vector<std::vector<Tensor>> parts;  // of each tensor of the result, of each sample
    for (const std::vector<IValue>& result : results) {
      size_t next = 0;
      map_tensors(result[i], [&](const Tensor& tensor) {
        if (parts.size() == next) parts.emplace_back();
        parts[next++].push_back(tensor);
        return tensor;
      });
    }
    size_t next = 0;
    stack->push_back(map_tensors(results[0][i], [&](const Tensor&) {
      const Tensor joined = at::stack(parts[next++]).unflatten(0, batch);
      return views[0].getPhysicalToLogicalMap().apply(joined);
    }));
  }
}

}  // namespace

TORCH_LIBRARY_IMPL(fusedrnn, Batched, m) {
  for (const char* name : {"layer_forward", "layer_backward", "quantized_forward"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_each_sample>());
  }
}
