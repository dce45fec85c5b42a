// Products of a few rows with a packed matrix: rows [rows, k_size] * panel [k_size, kCols],
// where kCols counts vectors. Sums stay in registers while k runs.
//
// A panel is stored as [kCols / kTileCols][k_size][kTileCols][lanes], so that a tile reads
// its part of it as one stream.
#pragma once

#include "common/macros.h"
#include "math/pack.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

// Sums that fit into the vector registers beside the operands.
#if defined(__aarch64__)
constexpr int kAccumulators = 24;
#else
constexpr int kAccumulators = kVectorBytes == 64 ? 24 : 12;
#endif

// Vectors of columns, and at most rows, of a tile. Six rows by two vectors use less bandwidth
// for the panel than three by four, which compilers also fail to keep in 16 registers.
constexpr int tile_cols(int cols) { return cols == 4 && kAccumulators < 24 ? 2 : cols; }
constexpr int tile_rows(int cols) { return kAccumulators / tile_cols(cols); }

FUSEDRNN_HD void prefetch(const void* ptr) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(ptr);
#else
  static_cast<void>(ptr);
#endif
}

// Bytes ahead of its use that a panel is fetched: beyond the reach of the caches' own guess
// when a panel has been evicted to the outer cache.
constexpr int kPrefetchBytes = 1024;

// sums[row * kCols + col] = rows * tile, for kRows rows and kTileCols vectors of columns.
template <class V, int kRows, int kTileCols, int kCols, class A>
FUSEDRNN_HD void multiply_tile(const A* rows, int64_t row_stride, const A* tile, int64_t k_size,
                               V* sums) {
  V acc[kRows][kTileCols];
#pragma GCC unroll 24
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 24
    for (int col = 0; col < kTileCols; ++col) acc[row][col] = V(A(0));
  }
  for (int64_t k = 0; k < k_size; ++k) {
    V weights[kTileCols];
#pragma GCC unroll 24
    for (int col = 0; col < kTileCols; ++col) weights[col] = V::load(tile + col * V::kLanes);
    prefetch(reinterpret_cast<const char*>(tile) + kPrefetchBytes);
    tile += kTileCols * V::kLanes;
#pragma GCC unroll 24
    for (int row = 0; row < kRows; ++row) {
      const V value(rows[row * row_stride + k]);
#pragma GCC unroll 24
      for (int col = 0; col < kTileCols; ++col) {
        acc[row][col] = madd(value, weights[col], acc[row][col]);
      }
    }
  }
#pragma GCC unroll 24
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 24
    for (int col = 0; col < kTileCols; ++col) sums[row * kCols + col] = acc[row][col];
  }
}

// One row: enough sums to hide the latency of an addition come from taking several k at once.
template <class V, int kCols, class A>
FUSEDRNN_HD void multiply_row(const A* row, const A* tile, int64_t k_size, V* sums) {
  constexpr int kTileCols = tile_cols(kCols);
  constexpr int kSteps = 8 / kTileCols;
  V acc[kSteps][kTileCols];
#pragma GCC unroll 8
  for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 24
    for (int col = 0; col < kTileCols; ++col) acc[step][col] = V(A(0));
  }
  int64_t k = 0;
  for (; k + kSteps <= k_size; k += kSteps) {
#pragma GCC unroll 8
    for (int step = 0; step < kSteps; ++step) {
      const V value(row[k + step]);
#pragma GCC unroll 24
      for (int col = 0; col < kTileCols; ++col) {
        acc[step][col] = madd(value, V::load(tile), acc[step][col]);
        tile += V::kLanes;
      }
    }
  }
  for (; k < k_size; ++k) {
#pragma GCC unroll 24
    for (int col = 0; col < kTileCols; ++col) {
      acc[0][col] = madd(V(row[k]), V::load(tile), acc[0][col]);
      tile += V::kLanes;
    }
  }
#pragma GCC unroll 24
  for (int col = 0; col < kTileCols; ++col) {
    V sum = acc[0][col];
#pragma GCC unroll 8
    for (int step = 1; step < kSteps; ++step) sum += acc[step][col];
    sums[col] = sum;
  }
}

template <class V, int kRows, int kCols, class A>
void multiply_rows(const A* rows, int64_t row_stride, const A* panel, int64_t k_size, V* sums) {
  constexpr int kTileCols = tile_cols(kCols);
  for (int col = 0; col < kCols; col += kTileCols) {
    const A* tile = panel + col * k_size * V::kLanes;
    if (kRows == 1) {
      multiply_row<V, kCols>(rows, tile, k_size, sums + col);
    } else {
      multiply_tile<V, kRows, kTileCols, kCols>(rows, row_stride, tile, k_size, sums + col);
    }
  }
}

// sums [row_count, kCols] = rows * panel, 1 <= row_count <= tile_rows(kCols).
template <class V, int kCols, int kRows = tile_rows(kCols), class A>
FUSEDRNN_HD void multiply_block(int row_count, const A* rows, int64_t row_stride, const A* panel,
                                int64_t k_size, V* sums) {
  if constexpr (kRows > 1) {
    if (row_count < kRows) {
      return multiply_block<V, kCols, kRows - 1>(row_count, rows, row_stride, panel, k_size, sums);
    }
  }
  multiply_rows<V, kRows, kCols>(rows, row_stride, panel, k_size, sums);
}

// Calls body(row, sums) with the product of each of the rows [row_begin, row_end) and the
// panel, sums [kCols]. `rows` is row 0.
template <class V, int kCols, class A, class Body>
FUSEDRNN_HD void multiply_panel(int64_t row_begin, int64_t row_end, const A* rows,
                                int64_t row_stride, const A* panel, int64_t k_size,
                                const Body& body) {
  constexpr int kRows = tile_rows(kCols);
  const int64_t count = row_end - row_begin;
  const int64_t blocks = (count + kRows - 1) / kRows;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = row_begin + count * block / blocks;
    const int64_t last = row_begin + count * (block + 1) / blocks;
    V sums[kRows * kCols];
    multiply_block<V, kCols>(static_cast<int>(last - first), rows + first * row_stride, row_stride,
                             panel, k_size, sums);
    for (int64_t row = first; row < last; ++row) body(row, sums + (row - first) * kCols);
  }
}

}  // namespace FUSEDRNN_ISA
}  // namespace fusedrnn
