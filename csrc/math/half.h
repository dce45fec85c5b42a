// Conversions between float and the 16-bit storage types, without branches, written once
// for a float and for lanes of floats.
//
// To 16 bits: round to nearest even, overflow to infinity, NaN stays NaN, as torch casts.
// From 16 bits: exact. Neither needs subnormal floats, so flushing them changes nothing.
#pragma once

#include <cstdint>
#include <limits>

#include "common/types.h"
#include "math/lanes.h"
#include "math/scalar.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

FUSEDRNN_HD uint32_t select_lanes(bool condition, uint32_t a, uint32_t b) {
  return condition ? a : b;
}
FUSEDRNN_HD float select_lanes(bool condition, float a, float b) { return condition ? a : b; }

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// V is float or Lanes<float, N>, Bits the uint32_t of the same shape; a 16-bit value sits in
// the low half of each.
template <class S>
struct HalfFormat;

template <>
struct HalfFormat<BFloat16> {
  template <class V, class Bits>
  FUSEDRNN_HD static V decode(const Bits& half) {
    return bit_cast<V>(Bits(half << 16));
  }

  template <class V, class Bits>
  FUSEDRNN_HD static Bits encode(const V& value) {
    const Bits bits = bit_cast<Bits>(value);
    const Bits rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    return select_lanes(value <= kInfinity, rounded, Bits{} + 0x7FC0u);
  }
};

template <>
struct HalfFormat<Float16> {
  static constexpr float kMinNormal = 6.103515625e-05f;  // 2^-14
  static constexpr uint32_t kExponentUnit = 1u << 23;    // of a float
  static constexpr uint32_t kRebias = 112u << 23;        // between the exponents' biases

  template <class V, class Bits>
  FUSEDRNN_HD static V decode(const Bits& half) {
    const Bits normal_bits = ((half & 0x7FFFu) << 13) + kRebias;
    const V normal = bit_cast<V>(normal_bits);
    const V subnormal = bit_cast<V>(Bits(normal_bits + kExponentUnit)) - kMinNormal;
    const V inf_or_nan = bit_cast<V>(Bits(normal_bits + kRebias));
    const V finite = select_lanes(normal < kMinNormal, subnormal, normal);
    const V magnitude = select_lanes(normal < 65536.0f, finite, inf_or_nan);
    return bit_cast<V>(Bits(bit_cast<Bits>(magnitude) | ((half & 0x8000u) << 16)));
  }

  template <class V, class Bits>
  FUSEDRNN_HD static Bits encode(const V& value) {
    const Bits bits = bit_cast<Bits>(value);
    const Bits sign = bits & 0x80000000u;
    const Bits abs_bits = bits ^ sign;
    const V abs = bit_cast<V>(abs_bits);
    const Bits normal = (abs_bits - kRebias + 0xFFFu + ((abs_bits >> 13) & 1u)) >> 13;
    // The addition rounds to a multiple of 2^-24, the unit of subnormals, in the low bits.
    const Bits subnormal = bit_cast<Bits>(V(abs + 0.5f)) - 0x3F000000u;
    const Bits finite = select_lanes(abs < kMinNormal, subnormal, normal);
    const Bits inf_or_nan = select_lanes(value <= kInfinity, Bits{} + 0x7C00u, Bits{} + 0x7E00u);
    return select_lanes(abs < 65536.0f, finite, inf_or_nan) | (sign >> 16);
  }
};

FUSEDRNN_HD float to_float(float value) { return value; }
template <class S>
FUSEDRNN_HD float to_float(S value) {
  return HalfFormat<S>::template decode<float, uint32_t>(value.bits);
}

template <class S>
FUSEDRNN_HD S from_float(float value) {
  return S{static_cast<uint16_t>(HalfFormat<S>::template encode<float, uint32_t>(value))};
}
template <>
FUSEDRNN_HD float from_float<float>(float value) {
  return value;
}

}  // namespace FUSEDRNN_ISA
}  // namespace fusedrnn
