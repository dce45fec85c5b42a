// The simulator's twin of csrc/cuda/device/mma.cuh: the last lane that comes multiplies for all.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/types.h"
#include "cuda/device/memory.cuh"
#include "cuda/device/shared.cuh"
#include "cuda/device/thread.cuh"

namespace fusedrnn {

constexpr bool kHasMma = true;

struct Tf32 {
  uint32_t bits;
};

FUSEDRNN_DEV uint32_t round_to_tf32(uint32_t float_bits) {
  const uint32_t magnitude = float_bits & 0x7FFFFFFFu;
  return magnitude > 0x7F800000u ? 0x7FFFFFFFu : (float_bits + 0x1000u) & 0xFFFFE000u;
}

namespace detail {

struct MmaLane {
  float* sum;
  const uint32_t* a;
  const uint32_t* b;
};

template <class T>
float value_of(uint32_t word, int i) {
  if constexpr (sizeof(T) == 4) {
    float value;
    std::memcpy(&value, &word, sizeof(value));
    if ((word & 0x1FFFu) != 0 && !std::isnan(value)) {
      cudasim::fail("mma: operand %a is not rounded to TF32", static_cast<double>(value));
    }
    return value;
  } else {
    return to_accum(T{static_cast<uint16_t>(word >> (16 * i))});
  }
}

// Products are exact, and so is the sum over the depth, all but; it is rounded once.
template <class T>
void mma_of_warp(void* const* lanes) {
  constexpr int kWordValues = 4 / static_cast<int>(sizeof(T));
  const auto lane = [&](int group, int q) {
    return *static_cast<const MmaLane*>(lanes[4 * group + q]);
  };
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      double sum = 0;
      for (int half = 0; half < 2; ++half) {
        for (int q = 0; q < 4; ++q) {
          for (int i = 0; i < kWordValues; ++i) {
            sum += static_cast<double>(value_of<T>(lane(row % 8, q).a[2 * half + row / 8], i)) *
                   static_cast<double>(value_of<T>(lane(column, q).b[half], i));
          }
        }
      }
      float& to = lane(row % 8, column / 2).sum[row / 8 * 2 + column % 2];
      to = static_cast<float>(to + sum);
    }
  }
}

struct MatrixRow {
  uint8_t bytes[16];
  uint32_t* words;
};

template <bool kTransposed>
void ldmatrix_of_warp(void* const* lanes) {
  for (int i = 0; i < 32; ++i) {
    const int group = i / 4, q = i % 4;
    for (int matrix = 0; matrix < 4; ++matrix) {
      const auto row = [&](int of) {
        return static_cast<const MatrixRow*>(lanes[8 * matrix + of])->bytes;
      };
      uint8_t word[4];
      for (int byte = 0; byte < 4; ++byte) {
        word[byte] =
            kTransposed ? row(2 * q + byte / 2)[2 * group + byte % 2] : row(group)[4 * q + byte];
      }
      std::memcpy(&static_cast<MatrixRow*>(lanes[i])->words[matrix], word, sizeof(word));
    }
  }
}

template <bool kTransposed, class T>
void load_matrices(const Shared<T>& smem, int64_t i, uint32_t (&words)[4]) {
  MatrixRow row;
  row.words = words;
  std::memcpy(row.bytes,
              cudasim::access_shared(cudasim::Access::kRead, smem.address(i), sizeof(row.bytes)),
              sizeof(row.bytes));
  cudasim::collective(kTransposed ? "ldmatrix_transposed" : "ldmatrix", 0, &row,
                      ldmatrix_of_warp<kTransposed>);
}

}  // namespace detail

template <class T>
FUSEDRNN_DEV void mma(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  detail::MmaLane lane{sum, a, b};
  cudasim::collective("mma", static_cast<int>(sizeof(T)), &lane, detail::mma_of_warp<T>);
}

template <class T>
FUSEDRNN_DEV void ldmatrix(const Shared<T>& smem, int64_t i, uint32_t (&words)[4]) {
  detail::load_matrices<false>(smem, i, words);
}
template <class T>
FUSEDRNN_DEV void ldmatrix_transposed(const Shared<T>& smem, int64_t i, uint32_t (&words)[4]) {
  static_assert(sizeof(T) == 2, "ldmatrix transposes 16-bit values");
  detail::load_matrices<true>(smem, i, words);
}

}  // namespace fusedrnn
