// A tensor with its derivative along one direction: what forward-mode differentiation and the
// second derivative of a layer compute with, step by step, in torch operators that autograd can
// follow. A plain tensor is one whose derivative is zero. It is also the value type of a cell.
#pragma once

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include <utility>
#include <vector>

namespace fusedrnn {

struct Dual {
  at::Tensor value;
  at::Tensor slope;  // undefined: zero

  Dual() = default;
  Dual(at::Tensor v, at::Tensor s = {})  // NOLINT: implicit by design
      : value(std::move(v)), slope(std::move(s)) {}
  explicit Dual(float constant) : value(at::scalar_tensor(constant, at::kDouble)) {}

  bool defined() const { return value.defined(); }

  // Applies a linear function to value and slope.
  template <class Function>
  Dual map(const Function& function) const {
    return {function(value), slope.defined() ? function(slope) : at::Tensor()};
  }
  at::Tensor slope_or_zeros() const { return slope.defined() ? slope : at::zeros_like(value); }
};

// a + b, where an undefined one is zero.
inline at::Tensor defined_sum(const at::Tensor& a, const at::Tensor& b) {
  if (!a.defined()) return b;
  return b.defined() ? a + b : a;
}

// Applies a function that is linear in each argument.
template <class Function>
Dual bilinear(const Dual& a, const Dual& b, const Function& function) {
  at::Tensor slope;
  if (a.slope.defined()) slope = function(a.slope, b.value);
  if (b.slope.defined()) slope = defined_sum(slope, function(a.value, b.slope));
  return {function(a.value, b.value), slope};
}

inline Dual operator-(const Dual& a) {
  return a.map([](const at::Tensor& t) { return t.neg(); });
}
// A sum or difference has the shape of its value even where one derivative is zero.
inline Dual operator+(const Dual& a, const Dual& b) {
  at::Tensor value = a.value + b.value, slope = defined_sum(a.slope, b.slope);
  if (slope.defined()) slope = slope.expand_as(value);
  return {value, slope};
}
inline Dual operator-(const Dual& a, const Dual& b) { return a + -b; }
inline Dual defined_sum(const Dual& a, const Dual& b) { return a.defined() ? a + b : b; }
inline Dual operator*(const Dual& a, const Dual& b) {
  return bilinear(a, b, [](const at::Tensor& x, const at::Tensor& y) { return x * y; });
}
inline Dual matmul(const Dual& a, const Dual& b) {
  return bilinear(a, b, [](const at::Tensor& x, const at::Tensor& y) { return x.matmul(y); });
}

inline Dual exp(const Dual& a) {
  const at::Tensor y = a.value.exp();
  return {y, a.slope.defined() ? a.slope * y : at::Tensor()};
}
inline Dual tanh(const Dual& a) {
  const at::Tensor y = a.value.tanh();
  return {y, a.slope.defined() ? a.slope * (1 - y * y) : at::Tensor()};
}
inline Dual sigmoid(const Dual& a) {
  const at::Tensor y = a.value.sigmoid();
  return {y, a.slope.defined() ? a.slope * y * (1 - y) : at::Tensor()};
}
inline at::Tensor is_positive(const at::Tensor& a) { return a.gt(0).to(a.dtype()); }
inline Dual relu(const Dual& a) {
  const at::Tensor y = a.value.relu();
  return {y, a.slope.defined() ? at::threshold_backward(a.slope, y, 0) : at::Tensor()};
}
inline Dual heaviside(const Dual& a) { return is_positive(a.value); }

inline Dual transpose(const Dual& a) {
  return a.map([](const at::Tensor& t) { return t.t(); });
}
inline Dual sum_columns(const Dual& a) {
  return a.map([](const at::Tensor& t) { return t.sum(0); });
}

// x W^T + bias; without a bias where that is undefined.
inline Dual linear(const Dual& x, const Dual& weight, const Dual& bias) {
  const Dual product = bilinear(
      x, weight, [](const at::Tensor& a, const at::Tensor& b) { return at::linear(a, b); });
  return bias.defined() ? product + bias : product;
}

// a where the condition holds, else b.
inline Dual where(const at::Tensor& condition, const Dual& a, const Dual& b) {
  at::Tensor slope;
  if (a.slope.defined() || b.slope.defined()) {
    slope = at::where(condition, a.slope_or_zeros(), b.slope_or_zeros());
  }
  return {at::where(condition, a.value, b.value), slope};
}

// Joins several by a linear function of them.
template <class Function>
Dual join(const std::vector<Dual>& parts, const Function& function) {
  std::vector<at::Tensor> values, slopes;
  bool has_slope = false;
  for (const Dual& part : parts) has_slope = has_slope || part.slope.defined();
  for (const Dual& part : parts) {
    values.push_back(part.value);
    if (has_slope) slopes.push_back(part.slope_or_zeros());
  }
  return {function(values), has_slope ? function(slopes) : at::Tensor()};
}
inline Dual cat(const std::vector<Dual>& parts, int64_t dim) {
  return join(parts, [&](const std::vector<at::Tensor>& tensors) { return at::cat(tensors, dim); });
}
inline Dual stack(const std::vector<Dual>& parts) {
  return join(parts, [](const std::vector<at::Tensor>& tensors) { return at::stack(tensors); });
}

// Splits one into several, as `function` does with a tensor.
template <class Function>
std::vector<Dual> split(const Dual& a, const Function& function) {
  std::vector<Dual> parts;
  for (const at::Tensor& value : function(a.value)) parts.emplace_back(value);
  if (!a.slope.defined()) return parts;
  const std::vector<at::Tensor> slopes = function(a.slope);
  for (size_t i = 0; i < parts.size(); ++i) parts[i].slope = slopes[i];
  return parts;
}

}  // namespace fusedrnn
