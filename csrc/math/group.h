// Group<V, N>: N values of type V side by side, with the arithmetic and functions that cells need.
// Its operations are those of its members in turn: while the result of one is on its way, the
// processor has another to compute. Used for packs of several rows.
#pragma once

#include "common/macros.h"
#include "math/scalar.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

// N of anything: comparisons give masks, bit casts unsigned integers.
template <class T, int N>
struct Members {
  T member[N];

  Members() = default;
  template <class Make>
  FUSEDRNN_HD static Members each(const Make& make) {
    Members result;
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) result.member[i] = make(i);
    return result;
  }
};

template <class T, int N, class Integer>
FUSEDRNN_HD Members<T, N> operator&(const Members<T, N>& a, Integer b) {
  return Members<T, N>::each([&](int i) { return T(a.member[i] & b); });
}
template <class T, int N>
FUSEDRNN_HD Members<T, N> operator|(const Members<T, N>& a, const Members<T, N>& b) {
  return Members<T, N>::each([&](int i) { return T(a.member[i] | b.member[i]); });
}
template <class T, int N>
FUSEDRNN_HD Members<T, N> operator^(const Members<T, N>& a, const Members<T, N>& b) {
  return Members<T, N>::each([&](int i) { return T(a.member[i] ^ b.member[i]); });
}
template <class T, int N>
FUSEDRNN_HD Members<T, N> operator<<(const Members<T, N>& a, int bits) {
  return Members<T, N>::each([&](int i) { return T(a.member[i] << bits); });
}

template <class V, int N>
struct Group : Members<V, N> {
  Group() = default;
  FUSEDRNN_HD explicit Group(const V& value) {
    for (V& v : this->member) v = value;
  }
  FUSEDRNN_HD explicit Group(typename ValueTraits<V>::Scalar value) : Group(V(value)) {}
  FUSEDRNN_HD explicit Group(const Members<V, N>& members) : Members<V, N>(members) {}
};

template <class V, int N>
struct ValueTraits<Group<V, N>> {
  using Scalar = typename ValueTraits<V>::Scalar;
  using Bits = Members<typename ValueTraits<V>::Bits, N>;
};

template <class V, int N, class Make>
FUSEDRNN_HD Group<V, N> make_group(const Make& make) {
  return Group<V, N>(Members<V, N>::each(make));
}

template <class V, int N>
FUSEDRNN_HD Group<V, N> operator-(const Group<V, N>& a) {
  return make_group<V, N>([&](int i) { return -a.member[i]; });
}
template <class V, int N>
FUSEDRNN_HD Group<V, N> operator+(const Group<V, N>& a, const Group<V, N>& b) {
  return make_group<V, N>([&](int i) { return a.member[i] + b.member[i]; });
}
template <class V, int N>
FUSEDRNN_HD Group<V, N> operator-(const Group<V, N>& a, const Group<V, N>& b) {
  return make_group<V, N>([&](int i) { return a.member[i] - b.member[i]; });
}
template <class V, int N>
FUSEDRNN_HD Group<V, N> operator*(const Group<V, N>& a, const Group<V, N>& b) {
  return make_group<V, N>([&](int i) { return a.member[i] * b.member[i]; });
}
template <class V, int N>
FUSEDRNN_HD Group<V, N> operator/(const Group<V, N>& a, const Group<V, N>& b) {
  return make_group<V, N>([&](int i) { return a.member[i] / b.member[i]; });
}

// a * b + c
template <class V, int N>
FUSEDRNN_HD Group<V, N> madd(const Group<V, N>& a, const Group<V, N>& b, const Group<V, N>& c) {
  return make_group<V, N>([&](int i) { return madd(a.member[i], b.member[i], c.member[i]); });
}

template <class V>
using MaskOfValue = decltype(V{} < V{});

template <class V, int N>
FUSEDRNN_HD Members<MaskOfValue<V>, N> operator<(const Group<V, N>& a, const Group<V, N>& b) {
  return Members<MaskOfValue<V>, N>::each([&](int i) { return a.member[i] < b.member[i]; });
}
template <class V, int N>
FUSEDRNN_HD Members<MaskOfValue<V>, N> operator>(const Group<V, N>& a, const Group<V, N>& b) {
  return b < a;
}
template <class V, int N>
FUSEDRNN_HD Members<MaskOfValue<V>, N> operator<=(const Group<V, N>& a, const Group<V, N>& b) {
  return Members<MaskOfValue<V>, N>::each([&](int i) { return a.member[i] <= b.member[i]; });
}
template <class Mask, class V, int N>
FUSEDRNN_HD Group<V, N> select(const Members<Mask, N>& mask, const Group<V, N>& a,
                               const Group<V, N>& b) {
  return make_group<V, N>([&](int i) { return select(mask.member[i], a.member[i], b.member[i]); });
}

template <class V, int N>
FUSEDRNN_HD Group<V, N> tanh(const Group<V, N>& x) {
  return math::tanh_value(x);
}
template <class V, int N>
FUSEDRNN_HD Group<V, N> sigmoid(const Group<V, N>& x) {
  return math::sigmoid_value(x);
}
template <class V, int N>
FUSEDRNN_HD Group<V, N> relu(const Group<V, N>& x) {
  return math::relu_value(x);
}
template <class V, int N>
FUSEDRNN_HD Group<V, N> heaviside(const Group<V, N>& x) {
  return math::heaviside_value(x);
}

}  // namespace FUSEDRNN_ISA
}  // namespace fusedrnn
