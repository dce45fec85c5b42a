// Products of small matrices by the tensor cores. Every thread of the warp takes part.
//
//   sum[16, 8] += a[16, depth] * b[depth, 8]
//
// A lane 4 * g + q holds words, each of one TF32 value or of two 16-bit values of successive k, the
// lower k in the lower half. Word position p of a row is q in the first half of the depth and
// q + 4 in the second one:
//   a[0], a[1]  position q of rows g and g + 8        b[0]  position q of column g
//   a[2], a[3]  position q + 4 of the same rows       b[1]  position q + 4 of column g
//   sum[0], sum[1]  columns 2 * q and 2 * q + 1 of row g; sum[2], sum[3] of row g + 8
// Because both operands hold the same k at one position, which k that is does not matter.
//
// Devices without the instruction (TF32 and bfloat16 before sm_80) get it from shuffles, slowly.
#pragma once

#include <cstdint>

#include "common/types.h"
#include "cuda/device/memory.cuh"
#include "cuda/device/shared.cuh"
#include "cuda/device/thread.cuh"

namespace fusedrnn {

// Whether every type below has its instruction.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr bool kHasMma = false;
#else
constexpr bool kHasMma = true;
#endif

// A float32 whose last 13 bits are zeros: what the tensor cores multiply of a float.
struct Tf32 {
  uint32_t bits;
};

// The nearest one; halfway cases go away from zero.
FUSEDRNN_DEV uint32_t round_to_tf32(uint32_t float_bits) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(__uint_as_float(float_bits)));
  return bits;
#else
  const uint32_t magnitude = float_bits & 0x7FFFFFFFu;
  return magnitude > 0x7F800000u ? 0x7FFFFFFFu : (float_bits + 0x1000u) & 0xFFFFE000u;
#endif
}

namespace detail {

// What value `i` of a word is.
template <class T>
FUSEDRNN_DEV float value_of(uint32_t word, int i) {
  if constexpr (sizeof(T) == 4) {
    return __uint_as_float(word);
  } else {
    return to_accum(T{static_cast<uint16_t>(word >> (16 * i))});
  }
}

template <class T>
FUSEDRNN_DEV void mma_by_shuffles(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const int first = lane_idx() & ~3, column = lane_idx() % 4 * 2;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll 1
    for (int q = 0; q < 4; ++q) {
      uint32_t row[2], col[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        row[i] = __shfl_sync(kFullWarp, a[2 * half + i], first + q);
        col[i] = __shfl_sync(kFullWarp, b[half], 4 * (column + i) + q);
      }
#pragma unroll
      for (int i = 0; i < 4 / static_cast<int>(sizeof(T)); ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          sum[j] += value_of<T>(row[j / 2], i) * value_of<T>(col[j % 2], i);
        }
      }
    }
  }
}

}  // namespace detail

// T is BFloat16 or Float16, of depth 16, or Tf32, of depth 8.
template <class T>
FUSEDRNN_DEV void mma(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

template <>
FUSEDRNN_DEV void mma<BFloat16>(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  detail::mma_by_shuffles<BFloat16>(sum, a, b);
#endif
}

template <>
FUSEDRNN_DEV void mma<Float16>(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
  }
#endif
}

template <>
FUSEDRNN_DEV void mma<Tf32>(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  detail::mma_by_shuffles<Tf32>(sum, a, b);
#endif
}

// Four matrices of 8 rows of 16 bytes: lane l gives element i of `smem`, where row l % 8 of matrix
// l / 8 begins, at a multiple of 16 bytes, and words[m] is word q of row g of matrix m.
template <class T>
FUSEDRNN_DEV void ldmatrix(const Shared<T>& smem, int64_t i, uint32_t (&words)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(smem.address(i))
               : "memory");
}
// The same of matrices of 16-bit values transposed: words[m] has column g of rows 2 * q and
// 2 * q + 1.
template <class T>
FUSEDRNN_DEV void ldmatrix_transposed(const Shared<T>& smem, int64_t i, uint32_t (&words)[4]) {
  static_assert(sizeof(T) == 2, "ldmatrix transposes 16-bit values");
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(smem.address(i))
               : "memory");
}

}  // namespace fusedrnn
