// exp, tanh, sigmoid, relu and heaviside of float and double, and the algorithms behind them,
// written once for scalars and for the packs of math/pack.h.
//
//   exp(x)     = 2^n * (1 + q), x = n * ln(2) + r, |r| <= ln(2) / 2, q = exp(r) - 1
//   sigmoid(x) = 1 / (1 + exp(-x)), both sides of the division times a power of two
//   tanh(x)    = sign(x) * (|x| < 0.625 ? |x| + |x|^3 * polynomial : 1 - 2 / (exp(2 |x|) + 1))
//
// Largest error over all inputs in ulp, with or without fused multiply-add, measured by
// tests/native/test_math.cpp: float exp 1.1, tanh 1.3, sigmoid 2.5; double exp 1.1, tanh 1.3,
// sigmoid 2.2. Subnormal results are rounded as such unless the caller has the processor flush
// them. Saturation is exact: sigmoid ends in 0 and 1, tanh in -1 and 1 and never beyond. NaN
// gives NaN; tanh(-0) is -0.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/macros.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

template <class To, class From>
FUSEDRNN_HD To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs types of one size");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

// The scalar a value type consists of, and the unsigned integers of its shape.
template <class V>
struct ValueTraits;
template <>
struct ValueTraits<float> {
  using Scalar = float;
  using Bits = uint32_t;
};
template <>
struct ValueTraits<double> {
  using Scalar = double;
  using Bits = uint64_t;
};

FUSEDRNN_HD float madd(float a, float b, float c) { return a * b + c; }
FUSEDRNN_HD double madd(double a, double b, double c) { return a * b + c; }

FUSEDRNN_HD float select(bool condition, float a, float b) { return condition ? a : b; }
FUSEDRNN_HD double select(bool condition, double a, double b) { return condition ? a : b; }

namespace math {

template <class T>
struct Constants;

template <>
struct Constants<float> {
  static constexpr uint32_t kSignBit = 0x80000000u;
  static constexpr int kMantissaBits = 23;
  static constexpr int kExponentBias = 127;
  // Adding it rounds to a whole number and leaves that number in the low bits.
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23
  static constexpr uint32_t kRoundBits = 0x4B400000u;
  static constexpr float kLog2E = 1.44269504f;
  // ln(2) in two parts: whole multiples of the first are exact.
  static constexpr float kLn2High = 0.693359375f;
  static constexpr float kLn2Low = -2.12194440e-4f;
  static constexpr float kExpMin = -104.0f;  // exp is 0 from here down
  static constexpr float kExpMax = 89.0f;    // exp is infinite from here up
};

template <>
struct Constants<double> {
  static constexpr uint64_t kSignBit = 0x8000000000000000u;
  static constexpr int kMantissaBits = 52;
  static constexpr int kExponentBias = 1023;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr uint64_t kRoundBits = 0x4338000000000000u;
  static constexpr double kLog2E = 1.4426950408889634;
  static constexpr double kLn2High = 6.93147180369123816490e-01;
  static constexpr double kLn2Low = 1.90821492927058770002e-10;
  static constexpr double kExpMin = -746.0;
  static constexpr double kExpMax = 710.0;
};

// c0 + c1 x + c2 x^2 + ...
template <class V, class T>
FUSEDRNN_HD V polynomial(const V&, T c0) {
  return V(c0);
}
template <class V, class T, class... Rest>
FUSEDRNN_HD V polynomial(const V& x, T c0, Rest... rest) {
  return madd(polynomial(x, rest...), x, V(c0));
}

// (exp(r) - 1 - r) / r^2 for |r| <= 0.3475, weighted minimax: r^2 times its error is below
// 2^-26 |r| in float and 2^-61 |r| in double.
template <class V>
FUSEDRNN_HD V exp_tail(const V& r, float) {
  return polynomial(r, 0.5f, 0.1666654348373413f, 0.041666287928819656f, 0.008366518653929234f,
                    0.0013946294784545898f);
}
template <class V>
FUSEDRNN_HD V exp_tail(const V& r, double) {
  return polynomial(r, 0.5, 0.16666666666666677, 0.0416666666666667, 0.008333333333321952,
                    0.0013888888888867437, 0.00019841269885533013, 2.4801587359780207e-05,
                    2.755724463104302e-06, 2.7557243191718697e-07, 2.510894129011968e-08,
                    2.092436105292514e-09);
}

// (tanh(x) - x) / x^3 as a function of s = x^2 for |x| <= 0.625, weighted minimax: x^3 times
// its error is below 2^-27 |x| in float and 2^-61 |x| in double.
template <class V>
FUSEDRNN_HD V tanh_tail(const V& s, float) {
  return polynomial(s, -0.3333328664302826f, 0.13331536948680878f, -0.053746242076158524f,
                    0.020657381042838097f, -0.005723042879253626f);
}
template <class V>
FUSEDRNN_HD V tanh_tail(const V& s, double) {
  return polynomial(s, -0.3333333333333332, 0.13333333333330927, -0.05396825396658171,
                    0.0218694884806649, -0.008863234475221407, 0.003592115416034085,
                    -0.0014557341286914802, 0.0005894835284449443, -0.000237093453943788,
                    9.169249601850413e-05, -3.031407282907864e-05, 6.095140326690588e-06);
}

// x = n * ln(2) + r. Returns exp(r) - 1 and leaves n + offset in the low bits of *n_bits.
template <class V, class Bits = typename ValueTraits<V>::Bits>
FUSEDRNN_HD V reduced_expm1(const V& x, int offset, Bits* n_bits) {
  using T = typename ValueTraits<V>::Scalar;
  using C = Constants<T>;
  const V round = V(C::kRound + static_cast<T>(offset));
  const V shifted = madd(x, V(C::kLog2E), round);
  const V n = shifted - round;
  const V r = madd(n, V(-C::kLn2Low), madd(n, V(-C::kLn2High), x));
  *n_bits = bit_cast<Bits>(shifted);
  return madd(r * r, exp_tail(r, T()), r);
}

// 2^n is applied as two factors, because it alone may be out of range where the result is not.
template <class V>
FUSEDRNN_HD V exp_value(const V& x) {
  using C = Constants<typename ValueTraits<V>::Scalar>;
  using Bits = typename ValueTraits<V>::Bits;
  const V below = select(x > V(C::kExpMax), V(C::kExpMax), x);
  Bits n_bits;
  const V bounded = select(below < V(C::kExpMin), V(C::kExpMin), below);
  const V q = reduced_expm1(bounded, 2 * C::kExponentBias, &n_bits);
  const Bits biased = n_bits - C::kRoundBits;
  const Bits half = biased >> 1;
  const V factor = bit_cast<V>(Bits(half << C::kMantissaBits));
  const V other_factor = bit_cast<V>(Bits((biased - half) << C::kMantissaBits));
  return (V(1.0f) + q) * factor * other_factor;
}

// With 2^-64 the sum is in range down to where the quotient becomes 0.
template <class V>
FUSEDRNN_HD V sigmoid_value(const V& x) {
  using C = Constants<typename ValueTraits<V>::Scalar>;
  using Bits = typename ValueTraits<V>::Bits;
  constexpr int kScaleBits = 64;
  const V scale = V(5.421010862427522e-20f);  // 2^-64
  // From 40 on, 1 + exp(-x) rounds to 1 in either precision.
  const V below = select(x > V(40.0f), V(40.0f), x);
  Bits n_bits;
  const V bounded = select(below < V(C::kExpMin), V(C::kExpMin), below);
  const V q = reduced_expm1(-bounded, C::kExponentBias - kScaleBits, &n_bits);
  const V factor = bit_cast<V>(Bits(n_bits << C::kMantissaBits));
  return scale / madd(factor, q, factor + scale);
}

template <class V>
FUSEDRNN_HD V tanh_value(const V& x) {
  using T = typename ValueTraits<V>::Scalar;
  using C = Constants<T>;
  using Bits = typename ValueTraits<V>::Bits;
  // From 20 on, tanh rounds to 1 in either precision.
  const V limit = V(20.0f);
  const Bits sign = bit_cast<Bits>(x) & C::kSignBit;
  const V abs = bit_cast<V>(Bits(bit_cast<Bits>(x) ^ sign));
  const V bounded = select(abs > limit, limit, abs);
  const V square = bounded * bounded;
  const V near_zero = madd(bounded * square, tanh_tail(square, T()), bounded);
  Bits n_bits;
  const V q = reduced_expm1(bounded + bounded, C::kExponentBias, &n_bits);
  const V factor = bit_cast<V>(Bits(n_bits << C::kMantissaBits));
  const V away = V(1.0f) - V(2.0f) / madd(factor, q, factor + V(1.0f));
  const V magnitude = select(bounded < V(0.625f), near_zero, away);
  return bit_cast<V>(Bits(bit_cast<Bits>(magnitude) | sign));
}

// As in torch, NaN gives NaN, and there is no negative zero.
template <class V>
FUSEDRNN_HD V relu_value(const V& x) {
  return select(x <= V(0.0f), V(0.0f), x);
}

template <class V>
FUSEDRNN_HD V heaviside_value(const V& x) {
  return select(x > V(0.0f), V(1.0f), V(0.0f));
}

}  // namespace math

FUSEDRNN_HD float exp(float x) { return math::exp_value(x); }
FUSEDRNN_HD double exp(double x) { return math::exp_value(x); }
FUSEDRNN_HD float tanh(float x) { return math::tanh_value(x); }
FUSEDRNN_HD double tanh(double x) { return math::tanh_value(x); }
FUSEDRNN_HD float sigmoid(float x) { return math::sigmoid_value(x); }
FUSEDRNN_HD double sigmoid(double x) { return math::sigmoid_value(x); }
FUSEDRNN_HD float relu(float x) { return math::relu_value(x); }
FUSEDRNN_HD double relu(double x) { return math::relu_value(x); }
// 1 where x > 0, else 0, also for NaN: the derivative of relu.
FUSEDRNN_HD float heaviside(float x) { return math::heaviside_value(x); }
FUSEDRNN_HD double heaviside(double x) { return math::heaviside_value(x); }

}  // namespace FUSEDRNN_ISA
}  // namespace fusedrnn
