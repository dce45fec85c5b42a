// Lanes<T, N>: N scalars side by side with elementwise operators, plus select, convert, splat
// and interleave. The compiler's vector type where it has one (GCC, Clang), else a plain array.
// Comparisons give lanes of a signed integer of T's size: all bits set where true.
// For math/pack.h only; everything else uses packs.
#pragma once

#include <cstdint>
#include <utility>

#include "common/macros.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

// FUSEDRNN_ARRAY_LANES selects the array where the compiler has vectors too.
#if (defined(__GNUC__) || defined(__clang__)) && !defined(FUSEDRNN_ARRAY_LANES)

template <class T, int N>
struct LanesOf {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <class T, int N>
using Lanes = typename LanesOf<T, N>::type;

template <class Mask, class V>
FUSEDRNN_HD V select_lanes(const Mask& mask, const V& a, const V& b) {
  return mask ? a : b;
}

template <class To, class From>
FUSEDRNN_HD To convert_lanes(const From& from) {
  return __builtin_convertvector(from, To);
}

// The lanes kPick of a followed by b.
template <int... kPick, class V>
FUSEDRNN_HD V shuffle_lanes(const V& a, const V& b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, kPick...);
#else
  return __builtin_shuffle(a, b, decltype(a < b){kPick...});
#endif
}

#else

template <int kBytes>
struct MaskOf {
  using type = int16_t;
};
template <>
struct MaskOf<4> {
  using type = int32_t;
};
template <>
struct MaskOf<8> {
  using type = int64_t;
};

template <class T, int N>
struct Lanes {
  using Mask = Lanes<typename MaskOf<sizeof(T)>::type, N>;

  T lane[N];

  Lanes() = default;
  FUSEDRNN_HD Lanes(T value) {  // NOLINT: implicit, as for the compiler's vectors
    for (T& l : lane) l = value;
  }
  FUSEDRNN_HD T& operator[](int i) { return lane[i]; }
  FUSEDRNN_HD T operator[](int i) const { return lane[i]; }

  template <class Result, class Op>
  FUSEDRNN_HD static Result zip(const Lanes& a, const Lanes& b, Op op) {
    Result result;
    for (int i = 0; i < N; ++i) result[i] = op(a[i], b[i]);
    return result;
  }

  friend Lanes operator-(const Lanes& a) {
    return zip<Lanes>(a, a, [](T x, T) { return T(-x); });
  }
  friend Lanes operator+(const Lanes& a, const Lanes& b) {
    return zip<Lanes>(a, b, [](T x, T y) { return T(x + y); });
  }
  friend Lanes operator-(const Lanes& a, const Lanes& b) {
    return zip<Lanes>(a, b, [](T x, T y) { return T(x - y); });
  }
  friend Lanes operator*(const Lanes& a, const Lanes& b) {
    return zip<Lanes>(a, b, [](T x, T y) { return T(x * y); });
  }
  friend Lanes operator/(const Lanes& a, const Lanes& b) {
    return zip<Lanes>(a, b, [](T x, T y) { return T(x / y); });
  }
  friend Lanes operator&(const Lanes& a, const Lanes& b) {
    return zip<Lanes>(a, b, [](T x, T y) { return T(x & y); });
  }
  friend Lanes operator|(const Lanes& a, const Lanes& b) {
    return zip<Lanes>(a, b, [](T x, T y) { return T(x | y); });
  }
  friend Lanes operator^(const Lanes& a, const Lanes& b) {
    return zip<Lanes>(a, b, [](T x, T y) { return T(x ^ y); });
  }
  friend Lanes operator<<(const Lanes& a, int bits) {
    return zip<Lanes>(a, Lanes(T(bits)), [](T x, T y) { return T(x << y); });
  }
  friend Lanes operator>>(const Lanes& a, int bits) {
    return zip<Lanes>(a, Lanes(T(bits)), [](T x, T y) { return T(x >> y); });
  }
  friend Mask operator<(const Lanes& a, const Lanes& b) {
    return zip<Mask>(a, b, [](T x, T y) { return x < y ? -1 : 0; });
  }
  friend Mask operator>(const Lanes& a, const Lanes& b) { return b < a; }
  friend Mask operator<=(const Lanes& a, const Lanes& b) {
    return zip<Mask>(a, b, [](T x, T y) { return x <= y ? -1 : 0; });
  }
};

template <class M, class T, int N>
FUSEDRNN_HD Lanes<T, N> select_lanes(const Lanes<M, N>& mask, const Lanes<T, N>& a,
                                     const Lanes<T, N>& b) {
  Lanes<T, N> result;
  for (int i = 0; i < N; ++i) result[i] = mask[i] ? a[i] : b[i];
  return result;
}

template <class To, class T, int N>
FUSEDRNN_HD To convert_lanes(const Lanes<T, N>& from) {
  To to;
  for (int i = 0; i < N; ++i) to[i] = from[i];
  return to;
}

template <int... kPick, class T, int N>
FUSEDRNN_HD Lanes<T, N> shuffle_lanes(const Lanes<T, N>& a, const Lanes<T, N>& b) {
  const int picks[] = {kPick...};
  Lanes<T, N> result;
  for (int i = 0; i < N; ++i) result[i] = picks[i] < N ? a[picks[i]] : b[picks[i] - N];
  return result;
}

#endif

// a[0], b[0], a[1], b[1] and so on: the first N of them in `low`, the others in `high`.
template <class V, int... kLane>
FUSEDRNN_HD void interleave_lanes(const V& a, const V& b, V* low, V* high,
                                  std::integer_sequence<int, kLane...>) {
  constexpr int n = sizeof...(kLane);
  *low = shuffle_lanes<(kLane % 2 * n + kLane / 2)...>(a, b);
  *high = shuffle_lanes<(kLane % 2 * n + (n + kLane) / 2)...>(a, b);
}

// value in each lane: one broadcast instruction, where a loop over the lanes would insert each.
template <class V, class T>
FUSEDRNN_HD V splat_lanes(T value) {
  return value - V{};
}

}  // namespace FUSEDRNN_ISA
}  // namespace fusedrnn
