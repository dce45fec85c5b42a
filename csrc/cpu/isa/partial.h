// The first lanes of a vector, from memory and to it, for the units beyond the last whole vector.
// Pack copies so many bytes through memory, which a vector load or store then has to wait for;
// these do not, where the instruction set has masks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "cpu/isa/intrinsics.h"
#include "math/pack.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)

FUSEDRNN_HD __m512 load_first(const float* src, int n) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << n) - 1), src);
}
FUSEDRNN_HD __m512d load_first(const double* src, int n) {
  return _mm512_maskz_loadu_pd(static_cast<__mmask8>((1U << n) - 1), src);
}
FUSEDRNN_HD __m256i load_first(const uint16_t* src, int n) {
  return _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1U << n) - 1), src);
}
FUSEDRNN_HD void store_first(__m512 value, float* dst, int n) {
  _mm512_mask_storeu_ps(dst, static_cast<__mmask16>((1U << n) - 1), value);
}
FUSEDRNN_HD void store_first(__m512d value, double* dst, int n) {
  _mm512_mask_storeu_pd(dst, static_cast<__mmask8>((1U << n) - 1), value);
}
FUSEDRNN_HD void store_first(__m256i value, uint16_t* dst, int n) {
  _mm256_mask_storeu_epi16(dst, static_cast<__mmask16>((1U << n) - 1), value);
}

#elif defined(__AVX2__)

// Masked stores take some twenty times as long as plain ones on AMD's Zen to Zen 3, so that a
// store is of one part for each bit of n.
FUSEDRNN_HD __m256 load_first(const float* src, int n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_maskload_ps(src, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane));
}
FUSEDRNN_HD __m256d load_first(const double* src, int n) {
  const __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
  return _mm256_maskload_pd(src, _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), lane));
}
FUSEDRNN_HD void store_first(__m256 value, float* dst, int n) {
  __m128 part = _mm256_castps256_ps128(value);
  if ((n & 4) != 0) {
    _mm_storeu_ps(dst, part);
    part = _mm256_extractf128_ps(value, 1);
    dst += 4;
  }
  if ((n & 2) != 0) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(dst), _mm_castps_si128(part));
    part = _mm_movehl_ps(part, part);
    dst += 2;
  }
  if ((n & 1) != 0) _mm_store_ss(dst, part);
}
FUSEDRNN_HD void store_first(__m256d value, double* dst, int n) {
  __m128d part = _mm256_castpd256_pd128(value);
  if ((n & 2) != 0) {
    _mm_storeu_pd(dst, part);
    part = _mm256_extractf128_pd(value, 1);
    dst += 2;
  }
  if ((n & 1) != 0) _mm_store_sd(dst, part);
}

#endif

// The bytes that load_first gives of T; 0 where there is none.
template <class T>
constexpr auto first_bytes(int) -> decltype(sizeof(load_first(static_cast<const T*>(nullptr), 0))) {
  return sizeof(load_first(static_cast<const T*>(nullptr), 0));
}
template <class T>
constexpr size_t first_bytes(...) {
  return 0;
}

// A 16-bit type is given as its bits.
template <class T>
using BitsInMemory = std::conditional_t<sizeof(T) == sizeof(uint16_t), uint16_t, T>;

// Pack::load_partial, and Pack::store_partial of less than a vector.
template <class V, class T>
FUSEDRNN_HD V load_partial(const T* src, int n) {
  using Bits = BitsInMemory<T>;
  if constexpr (first_bytes<Bits>(0) == V::kLanes * sizeof(T)) {
    const auto first = load_first(reinterpret_cast<const Bits*>(src), n);
    T elements[V::kLanes];
    std::memcpy(elements, &first, sizeof(elements));
    return V::load(elements);
  } else {
    return V::load_partial(src, n);
  }
}
template <class V, class T>
FUSEDRNN_HD void store_partial(const V& value, T* dst, int n) {
  using Bits = BitsInMemory<T>;
  if constexpr (first_bytes<Bits>(0) == V::kLanes * sizeof(T)) {
    T elements[V::kLanes];
    value.store(elements);
    auto first = decltype(load_first(static_cast<const Bits*>(nullptr), 0)){};
    std::memcpy(&first, elements, sizeof(first));
    store_first(first, reinterpret_cast<Bits*>(dst), n);
  } else {
    value.store_partial(dst, n);
  }
}

}  // namespace FUSEDRNN_ISA
}  // namespace fusedrnn
