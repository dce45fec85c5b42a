// layer_forward with few arguments and results, because in a small call converting 12 and 6 of them
// takes as long as the kernel: plain_layer_forward, without options, and cell_forward, one time
// step. Compositions of operators, so that autograd, autocast, vmap and compilers see
// layer_forward.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/library.h>

#include <optional>
#include <tuple>
#include <utility>

#include "bindings/schema.h"

namespace fusedrnn {
namespace {

std::tuple<Tensor, Tensor, Tensor> plain_layer_forward(std::string_view cell, const Tensor& input,
                                                       const OptionalTensor& h_0,
                                                       const OptionalTensor& c_0,
                                                       at::TensorList weights) {
  const OptionalTensor none;
  auto [output, h_n, c_n, c] =
      call_layer_forward({cell, input, h_0, c_0, weights, none, none, none, none},
                         {false, false, 0})
          .outputs;
  return {std::move(output), std::move(h_n), std::move(c_n)};
}

// For views where no graph is recorded, of tensors without a derivative in forward mode: below
// autograd they take half the time, and nothing would ask what they are views of.
class BelowAutograd {
 public:
  explicit BelowAutograd(const Tensor& tensor) {
    if (!at::GradMode::is_enabled() && !torch::autograd::isFwGradDefined(tensor)) {
      guard_.emplace();
    }
  }

 private:
  std::optional<at::AutoDispatchBelowADInplaceOrView> guard_;
};

// Rows [B, W], or one row [W], as the rows of a sequence of one step, [1, B, W]. torch cannot
// differentiate a view of these two in forward mode.
Tensor add_step(const Tensor& given, bool batched) {
  const BelowAutograd below(given);
  const Tensor rows = given.is_inference() || given.is_neg() ? given.clone() : given;
  return batched ? rows.unsqueeze(0) : rows.unsqueeze(0).unsqueeze(0);
}

OptionalTensor add_step(const OptionalTensor& rows, bool batched) {
  return rows.has_value() ? OptionalTensor(add_step(*rows, batched)) : std::nullopt;
}

// In place, so that the result is no view.
void remove_step(Tensor* rows, bool batched) {
  const BelowAutograd below(*rows);
  rows->squeeze_(0);
  if (!batched) rows->squeeze_(0);
}

std::tuple<Tensor, Tensor> cell_forward(std::string_view cell, const Tensor& input,
                                        const OptionalTensor& h, const OptionalTensor& c,
                                        at::TensorList weights) {
  const bool batched = input.dim() != 1;
  auto [output, h_n, c_n] = plain_layer_forward(
      cell, add_step(input, batched), add_step(h, batched), add_step(c, batched), weights);
  remove_step(&h_n, batched);
  if (c_n.dim() > 1) remove_step(&c_n, batched);
  return {std::move(h_n), std::move(c_n)};
}

}  // namespace

TORCH_LIBRARY_IMPL(fusedrnn, CompositeImplicitAutograd, m) {
  m.impl("plain_layer_forward", TORCH_FN(plain_layer_forward));
  m.impl("cell_forward", TORCH_FN(cell_forward));
}

// vmap does not take compositions by itself.
TORCH_LIBRARY_IMPL(fusedrnn, FuncTorchBatched, m) {
  m.impl("plain_layer_forward", TORCH_FN(plain_layer_forward));
  m.impl("cell_forward", TORCH_FN(cell_forward));
}

}  // namespace fusedrnn
