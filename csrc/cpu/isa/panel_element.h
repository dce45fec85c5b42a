// The elements of packed weights. Panels of a 16-bit storage type have half the bytes of panels
// of its accumulation type, and are widened when they are loaded: worth it where a panel is read
// for so few rows that its bytes take longer than the arithmetic. Widening is exact, so that
// both give the same bits.
#pragma once

#include <type_traits>

#include "cpu/isa/intrinsics.h"
#include "cpu/sweep.h"
#include "math/pack.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

// The most rows of a step for which panels of S are worth it; 0: never. Without vectors of more
// than 16 bytes the arithmetic is the limit.
template <class S>
constexpr int storage_panel_rows() {
  return sizeof(S) < sizeof(accum_t<S>) && kVectorBytes > 16 ? kStoragePanelRows : 0;
}

// Widens a vector by the instructions for it, which compilers do not find behind Pack::load: they
// widen half a vector at a time, and decode Float16 by arithmetic. int8_t is of weights in place.
#if defined(__AVX512F__)
FUSEDRNN_HD __m512 widen(const BFloat16* ptr) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(ptr));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
FUSEDRNN_HD __m512 widen(const Float16* ptr) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(ptr)));
}
FUSEDRNN_HD __m512 widen(const int8_t* ptr) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(ptr));
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}
#elif defined(__AVX2__) && defined(__F16C__)
FUSEDRNN_HD __m256 widen(const BFloat16* ptr) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(ptr));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
FUSEDRNN_HD __m256 widen(const Float16* ptr) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(ptr)));
}
FUSEDRNN_HD __m256 widen(const int8_t* ptr) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(ptr));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}
#else
FUSEDRNN_HD char widen(const void*) { return 0; }  // smaller than any vector
#endif

// A vector of weights, of a panel or of the weight itself.
template <class V, class P>
FUSEDRNN_HD V load_panel(const P* ptr) {
  if constexpr (sizeof(P) < sizeof(float)) {
    if constexpr (sizeof(widen(ptr)) == sizeof(V)) {
      return V(bit_cast<typename V::Vector>(widen(ptr)));
    }
  }
  return V::load(ptr);
}

// One weight as an element of a panel.
template <class P, class S>
FUSEDRNN_HD P panel_element(S value) {
  if constexpr (std::is_same_v<P, S>) {
    return value;
  } else {
    return to_float(value);
  }
}

}  // namespace FUSEDRNN_ISA
}  // namespace fusedrnn
