// Pack<T>, T = float or double: a vector of the current ISA with the arithmetic, loads and
// stores that kernels need, and the functions of math/scalar.h lane by lane: a lane gives
// what the scalar function gives for it.
//
// The width is the widest the compiler was told the machine has; FUSEDRNN_VECTOR_BYTES
// overrides it. Products and sums contract to fused multiply-adds where the ISA has them
// (compile with -ffp-contract=fast).
//
// Memory may be unaligned. The 16-bit types load into and store from Pack<float>, converted
// as math/half.h says; int8_t loads into it.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "common/types.h"
#include "math/half.h"
#include "math/lanes.h"
#include "math/scalar.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

#if defined(FUSEDRNN_VECTOR_BYTES)
constexpr int kVectorBytes = FUSEDRNN_VECTOR_BYTES;
#elif defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct Pack {
  static constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));
  using Vector = Lanes<T, kLanes>;
  using Mask = decltype(Vector{} < Vector{});

  Vector v;

  Pack() = default;
  FUSEDRNN_HD explicit Pack(T value) : v(splat_lanes<Vector>(value)) {}
  FUSEDRNN_HD explicit Pack(const Vector& vector) : v(vector) {}

  FUSEDRNN_HD T operator[](int i) const { return v[i]; }

  template <class S>
  FUSEDRNN_HD static Pack load(const S* ptr) {
    return load_partial(ptr, kLanes);
  }

  // The first n lanes from memory, 0 <= n <= kLanes, the others 0. Reads nothing else.
  template <class S>
  FUSEDRNN_HD static Pack load_partial(const S* ptr, int n) {
    if constexpr (sizeof(S) == sizeof(T)) {
      Pack pack{};
      std::memcpy(&pack, ptr, n * sizeof(S));
      return pack;
    } else if constexpr (std::is_same_v<S, int8_t>) {
      Lanes<int8_t, kLanes> bytes{};
      std::memcpy(&bytes, ptr, n);
      return Pack(convert_lanes<Vector>(bytes));
    } else {
      Lanes<uint16_t, kLanes> half{};
      std::memcpy(&half, ptr, n * sizeof(S));
      using Bits = Lanes<uint32_t, kLanes>;
      return Pack(HalfFormat<S>::template decode<Vector, Bits>(convert_lanes<Bits>(half)));
    }
  }

  template <class S>
  FUSEDRNN_HD void store(S* ptr) const {
    store_partial(ptr, kLanes);
  }

  // The first n lanes to memory, 0 <= n <= kLanes. Writes nothing else.
  template <class S>
  FUSEDRNN_HD void store_partial(S* ptr, int n) const {
    if constexpr (sizeof(S) == sizeof(T)) {
      std::memcpy(ptr, &v, n * sizeof(S));
    } else {
      using Bits = Lanes<uint32_t, kLanes>;
      const Bits bits = HalfFormat<S>::template encode<Vector, Bits>(v);
      const auto half = convert_lanes<Lanes<uint16_t, kLanes>>(bits);
      std::memcpy(ptr, &half, n * sizeof(S));
    }
  }
};

template <class T>
struct ValueTraits<Pack<T>> {
  using Scalar = T;
  using Bits = Lanes<typename ValueTraits<T>::Bits, Pack<T>::kLanes>;
};

template <class T>
FUSEDRNN_HD Pack<T> operator-(const Pack<T>& a) {
  return Pack<T>(-a.v);
}
template <class T>
FUSEDRNN_HD Pack<T> operator+(const Pack<T>& a, const Pack<T>& b) {
  return Pack<T>(a.v + b.v);
}
template <class T>
FUSEDRNN_HD Pack<T> operator-(const Pack<T>& a, const Pack<T>& b) {
  return Pack<T>(a.v - b.v);
}
template <class T>
FUSEDRNN_HD Pack<T> operator*(const Pack<T>& a, const Pack<T>& b) {
  return Pack<T>(a.v * b.v);
}
template <class T>
FUSEDRNN_HD Pack<T> operator/(const Pack<T>& a, const Pack<T>& b) {
  return Pack<T>(a.v / b.v);
}
template <class T>
FUSEDRNN_HD Pack<T>& operator+=(Pack<T>& a, const Pack<T>& b) {
  a.v = a.v + b.v;
  return a;
}

// a * b + c
template <class T>
FUSEDRNN_HD Pack<T> madd(const Pack<T>& a, const Pack<T>& b, const Pack<T>& c) {
  return Pack<T>(a.v * b.v + c.v);
}

template <class T>
FUSEDRNN_HD typename Pack<T>::Mask operator<(const Pack<T>& a, const Pack<T>& b) {
  return a.v < b.v;
}
template <class T>
FUSEDRNN_HD typename Pack<T>::Mask operator>(const Pack<T>& a, const Pack<T>& b) {
  return a.v > b.v;
}
template <class T>
FUSEDRNN_HD typename Pack<T>::Mask operator<=(const Pack<T>& a, const Pack<T>& b) {
  return a.v <= b.v;
}
template <class T>
FUSEDRNN_HD Pack<T> select(const typename Pack<T>::Mask& mask, const Pack<T>& a, const Pack<T>& b) {
  return Pack<T>(select_lanes(mask, a.v, b.v));
}

// Lane j of pack i becomes lane i of pack j. Each pass interleaves the packs of the first half
// with those of the second, which rotates the bits of (pack, lane) by one.
template <class T>
FUSEDRNN_HD void transpose(Pack<T> (&packs)[Pack<T>::kLanes]) {
  constexpr int n = Pack<T>::kLanes;
#pragma GCC unroll 4
  for (int pass = 1; pass < n; pass *= 2) {
    Pack<T> next[n];
#pragma GCC unroll 8
    for (int i = 0; i < n / 2; ++i) {
      interleave_lanes(packs[i].v, packs[i + n / 2].v, &next[2 * i].v, &next[2 * i + 1].v,
                       std::make_integer_sequence<int, n>());
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) packs[i] = next[i];
  }
}

// Lane i is the sum of the lanes of pack i. Each pass adds what transpose would interleave.
template <class T>
FUSEDRNN_HD Pack<T> sum_lanes(const Pack<T> (&packs)[Pack<T>::kLanes]) {
  constexpr int n = Pack<T>::kLanes;
  Pack<T> sums[n];
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) sums[i] = packs[i];
#pragma GCC unroll 4
  for (int count = n / 2; count >= 1; count /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < count; ++i) {
      Pack<T> low, high;
      interleave_lanes(sums[i].v, sums[i + count].v, &low.v, &high.v,
                       std::make_integer_sequence<int, n>());
      sums[i] = low + high;
    }
  }
  return sums[0];
}

template <class T>
FUSEDRNN_HD Pack<T> exp(const Pack<T>& x) {
  return math::exp_value(x);
}
template <class T>
FUSEDRNN_HD Pack<T> tanh(const Pack<T>& x) {
  return math::tanh_value(x);
}
template <class T>
FUSEDRNN_HD Pack<T> sigmoid(const Pack<T>& x) {
  return math::sigmoid_value(x);
}
template <class T>
FUSEDRNN_HD Pack<T> relu(const Pack<T>& x) {
  return math::relu_value(x);
}
template <class T>
FUSEDRNN_HD Pack<T> heaviside(const Pack<T>& x) {
  return math::heaviside_value(x);
}

}  // namespace FUSEDRNN_ISA
}  // namespace fusedrnn
