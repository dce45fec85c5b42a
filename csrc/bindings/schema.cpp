#include "bindings/schema.h"

#include <ATen/core/dispatch/Dispatcher.h>

namespace fusedrnn {
namespace {

using ForwardSignature = decltype(forward_kernel<call_layer_forward>);
using BackwardSignature = decltype(backward_kernel<call_layer_backward>);
using QuantizedSignature = decltype(quantized_kernel<call_quantized_forward>);

c10::OperatorHandle find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "");
}

}  // namespace

ForwardResult call_layer_forward(std::string_view cell, const LayerTensors& tensors,
                                 const Sequence& sequence, const Keep& keep) {
  static const auto op = find_operator("fusedrnn::layer_forward").typed<ForwardSignature>();
  const auto& [input, h_0, c_0, reset_h, reset_c, w0, w1, w2, w3, w4, w5, w6, w7, w8, w9] = tensors;
  const auto& [batch_sizes, lengths, reset] = sequence;
  auto [output, h_n, c_n, c, saved, kept_output] =
      op.call(cell, *input, h_0, c_0, reset_h, reset_c, *w0, *w1, w2, w3, w4, w5, w6, w7, w8, w9,
              batch_sizes, lengths, reset, keep.save, keep.return_c, keep.recompute);
  return {{std::move(output), std::move(h_n), std::move(c_n), std::move(c)},
          std::move(saved),
          std::move(kept_output)};
}

LayerGrads call_layer_backward(std::string_view cell, const OutputGrads& grads,
                               const LayerTensors& tensors, const Sequence& sequence,
                               int64_t recompute, const Tensor& kept_output, const Tensor& saved,
                               const GradMask& mask) {
  static const auto op = find_operator("fusedrnn::layer_backward").typed<BackwardSignature>();
  const auto& [input, h_0, c_0, reset_h, reset_c, w0, w1, w2, w3, w4, w5, w6, w7, w8, w9] = tensors;
  const auto& [batch_sizes, lengths, reset] = sequence;
  LayerGradsTuple result =
      op.call(cell, grads[kOutput], grads[kHN], grads[kCN], grads[kC], *input, h_0, c_0, reset_h,
              reset_c, *w0, *w1, w2, w3, w4, w5, w6, w7, w8, w9, batch_sizes, lengths, reset,
              recompute, kept_output, saved, mask);
  return std::apply([](auto&... grad) { return LayerGrads{std::move(grad)...}; }, result);
}

Outputs call_quantized_forward(std::string_view cell, const LayerTensors& tensors,
                               const WeightScales& scales, const Sequence& sequence,
                               bool return_c) {
  static const auto op = find_operator("fusedrnn::quantized_forward").typed<QuantizedSignature>();
  const auto& [input, h_0, c_0, reset_h, reset_c, w0, w1, w2, w3, w4, w5, w6, w7, w8, w9] = tensors;
  const auto& [s0, s1, s2, s3, s4, s5] = scales;
  const auto& [batch_sizes, lengths, reset] = sequence;
  OutputsTuple result =
      op.call(cell, *input, h_0, c_0, reset_h, reset_c, *w0, *w1, w2, w3, w4, w5, w6, w7, w8, w9,
              s0, s1, s2, s3, s4, s5, batch_sizes, lengths, reset, return_c);
  return std::apply([](auto&... output) { return Outputs{std::move(output)...}; }, result);
}

}  // namespace fusedrnn
