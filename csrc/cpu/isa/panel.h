// Products of a few rows with a packed matrix: rows [rows, k_size] * panel [k_size, kCols],
// where kCols counts vectors. Sums stay in registers while k runs.
//
// A panel is stored as [kCols / kTileCols][k_size][kTileCols][lanes], so that a tile reads
// its part of it as one stream. Its elements are of the accumulation type A, or for few rows of
// the storage type S: panel_element.h.
#pragma once

#include <type_traits>

#include "common/macros.h"
#include "cpu/isa/panel_element.h"
#include "cpu/isa/step.h"
#include "cpu/isa/team.h"
#include "math/pack.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

// Sums that fit into the vector registers beside the operands; on AArch64, where compilers load
// the values of all rows at once, beside those too.
#if defined(__aarch64__)
constexpr int kAccumulators = 20;
#else
constexpr int kAccumulators = kVectorBytes == 64 ? 28 : 12;
#endif

// Vectors of columns, and at most rows, of a tile. Many rows by two vectors use less bandwidth
// for the panel than half the rows by four, which compilers also fail to keep in 16 registers.
constexpr int tile_cols(int cols) { return cols == 4 ? 2 : cols; }
constexpr int tile_rows(int cols) { return kAccumulators / tile_cols(cols); }

// A panel is fetched twice: into the second cache while the panel before it is multiplied, and
// this many bytes ahead of its use into the first.
constexpr int kPrefetchBytes = 1024;
// Up to so many rows a tile waits for its panel more than it computes. There all of it is fetched,
// so many bytes ahead into the second cache.
constexpr int kStreamedRows = 6;
constexpr int kStreamedBytes = 8192;
constexpr int kLineBytes = 64;

// Values of k side by side in the loop of a tile. The tiles of AVX2, of 12 sums, were 4 to 7 %
// faster by four than by one, and those of AVX-512, which have twice the sums, no faster.
constexpr int kUnrolledK = kVectorBytes < 64 ? 4 : 1;

// The most k that one float is the sum of: of more, such sums are added up. The rounding errors of
// one long sum would be several times those of a BLAS.
constexpr int64_t kSumDepth = 128;

// What a tile fetches into the second cache: a line for each of its k, so that the tiles of a
// panel fetch kParts pieces of the next panel, and then again the first.
template <class V, int kCols, class P>
struct NextPanel {
  static constexpr int kBytes = kCols * V::kLanes * static_cast<int>(sizeof(P));  // of one k
  static constexpr int kParts = kBytes > kLineBytes ? kBytes / kLineBytes : 1;
  const P* panel;
  int64_t k_size;
  FUSEDRNN_HD const char* part(int64_t idx) const {
    return reinterpret_cast<const char*>(panel) + idx % kParts * k_size * kLineBytes;
  }
};

// The left operand: rows of a matrix, or a block of at most kBlockRows of them with the values
// of one k side by side.
template <class A>
struct RowMajor {
  const A* ptr;
  int64_t row_stride;
  FUSEDRNN_HD RowMajor from(int64_t k) const { return {ptr + k, row_stride}; }
  FUSEDRNN_HD A at(int row, int64_t k) const { return ptr[row * row_stride + k]; }
};
template <class A, int kBlockRows>
struct Interleaved {
  const A* ptr;
  FUSEDRNN_HD Interleaved from(int64_t k) const { return {ptr + k * kBlockRows}; }
  FUSEDRNN_HD A at(int row, int64_t k) const { return ptr[k * kBlockRows + row]; }
};

// Fetches what comes after one k of a tile of kRows rows, and moves `ahead` on.
template <class V, int kRows, int kTileCols, class P>
FUSEDRNN_HD void fetch_ahead(const P* tile, const char** ahead) {
  const char* bytes = reinterpret_cast<const char*>(tile);
  prefetch(bytes + kPrefetchBytes);
  if constexpr (kRows <= kStreamedRows) {
#pragma GCC unroll 8
    for (int line = 0; line < kTileCols * V::kLanes * static_cast<int>(sizeof(P));
         line += kLineBytes) {
      prefetch_outer(bytes + kStreamedBytes + line);
    }
  } else {
    prefetch_outer(*ahead);
    *ahead += kLineBytes;
  }
}

// sums[row * kCols + col] = rows * tile, or += if `accumulate`, for kRows rows and kTileCols
// vectors of columns; `ahead` is a part of NextPanel.
template <class V, int kRows, int kTileCols, int kCols, class Left, class P>
FUSEDRNN_HD void multiply_tile(const Left& left, const P* tile, int64_t k_size, const char* ahead,
                               bool accumulate, V* sums) {
  V acc[kRows][kTileCols];
#pragma GCC unroll 24
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 24
    for (int col = 0; col < kTileCols; ++col) acc[row][col] = V(0.0f);
  }
#pragma GCC unroll kUnrolledK
  for (int64_t k = 0; k < k_size; ++k) {
    V weights[kTileCols];
#pragma GCC unroll 24
    for (int col = 0; col < kTileCols; ++col) weights[col] = load_panel<V>(tile + col * V::kLanes);
    fetch_ahead<V, kRows, kTileCols>(tile, &ahead);
    tile += kTileCols * V::kLanes;
#pragma GCC unroll 24
    for (int row = 0; row < kRows; ++row) {
      const V value(left.at(row, k));
#pragma GCC unroll 24
      for (int col = 0; col < kTileCols; ++col) {
        acc[row][col] = madd(value, weights[col], acc[row][col]);
      }
    }
  }
#pragma GCC unroll 24
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 24
    for (int col = 0; col < kTileCols; ++col) {
      V& sum = sums[row * kCols + col];
      sum = accumulate ? sum + acc[row][col] : acc[row][col];
    }
  }
}

// The chains of additions of a product, each of which has every so many-th k: so many that they
// hide the latency of an addition. The rows are those of the whole product, not of a block of it,
// so that the sums of a row do not depend on which rows share its block.
constexpr int product_chains(int rows, int tile_cols) {
  constexpr int kSums = 8;
  return (kSums + rows * tile_cols - 1) / (rows * tile_cols);
}

// multiply_tile for few rows, where successive k go to chains of additions of their own.
template <class V, int kRows, int kTileCols, int kCols, int kChains, class Left, class P>
FUSEDRNN_HD void multiply_few(const Left& left, const P* tile, int64_t k_size, bool accumulate,
                              V* sums) {
  V acc[kChains][kRows][kTileCols];
#pragma GCC unroll 8
  for (int chain = 0; chain < kChains; ++chain) {
#pragma GCC unroll 24
    for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 24
      for (int col = 0; col < kTileCols; ++col) acc[chain][row][col] = V(0.0f);
    }
  }
  const auto multiply = [&](int64_t k, V(&into)[kRows][kTileCols]) {
    V weights[kTileCols];
#pragma GCC unroll 24
    for (int col = 0; col < kTileCols; ++col) weights[col] = load_panel<V>(tile + col * V::kLanes);
    tile += kTileCols * V::kLanes;
#pragma GCC unroll 24
    for (int row = 0; row < kRows; ++row) {
      const V value(left.at(row, k));
#pragma GCC unroll 24
      for (int col = 0; col < kTileCols; ++col) {
        into[row][col] = madd(value, weights[col], into[row][col]);
      }
    }
  };
  int64_t k = 0;
  for (; k + kChains <= k_size; k += kChains) {
#pragma GCC unroll 8
    for (int chain = 0; chain < kChains; ++chain) multiply(k + chain, acc[chain]);
  }
  for (; k < k_size; ++k) multiply(k, acc[0]);
#pragma GCC unroll 24
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 24
    for (int col = 0; col < kTileCols; ++col) {
      V& sum = sums[row * kCols + col];
      sum = accumulate ? sum + acc[0][row][col] : acc[0][row][col];
#pragma GCC unroll 8
      for (int chain = 1; chain < kChains; ++chain) sum += acc[chain][row][col];
    }
  }
}

// A part of a product: `depth` of its k, for whose tiles there are k_size. Not inlined: one copy
// serves every cell.
template <class V, int kRows, int kCols, int kChains, class Left, class P>
void multiply_part(const Left& left, const P* panel, int64_t depth, int64_t k_size,
                   const char* ahead, bool accumulate, V* sums) {
  constexpr int kTileCols = tile_cols(kCols);
  for (int col = 0; col < kCols; col += kTileCols) {
    const P* tile = panel + col * k_size * V::kLanes;
    if constexpr (kChains > 1) {
      multiply_few<V, kRows, kTileCols, kCols, kChains>(left, tile, depth, accumulate, sums + col);
    } else {
      multiply_tile<V, kRows, kTileCols, kCols>(left, tile, depth, ahead, accumulate, sums + col);
      ahead += k_size * kLineBytes;
    }
  }
}

// sums [kRows, kCols] = left * panel, or += if `accumulate`, of a product of product_rows rows,
// at least kProductRows.
template <class V, int kCols, int kRows, int kProductRows = kRows, class Left, class P>
FUSEDRNN_HD void multiply_rows(int64_t product_rows, const Left& left, const P* panel,
                               int64_t k_size, const char* ahead, bool accumulate, V* sums) {
  constexpr int kTileCols = tile_cols(kCols), kChains = product_chains(kProductRows, kTileCols);
  if constexpr (kChains > 1) {
    if (product_rows > kProductRows) {
      return multiply_rows<V, kCols, kRows, kProductRows + 1>(product_rows, left, panel, k_size,
                                                              ahead, accumulate, sums);
    }
  }
  constexpr int64_t kDepth = kChains * kSumDepth;
  int64_t k = 0;
  do {
    const int64_t depth = k_size - k < kDepth ? k_size - k : kDepth;
    multiply_part<V, kRows, kCols, kChains>(left.from(k), panel + k * kTileCols * V::kLanes, depth,
                                            k_size, ahead + k * kLineBytes, accumulate || k > 0,
                                            sums);
    k += depth;
  } while (k < k_size);
}

// multiply_rows of row_count rows, 1 <= row_count <= kRows.
template <class V, int kCols, int kRows = tile_rows(kCols), class Left, class P>
FUSEDRNN_HD void multiply_block(int row_count, int64_t product_rows, const Left& left,
                                const P* panel, int64_t k_size, const char* ahead, bool accumulate,
                                V* sums) {
  if constexpr (kRows > 1) {
    if (row_count < kRows) {
      return multiply_block<V, kCols, kRows - 1>(row_count, product_rows, left, panel, k_size,
                                                 ahead, accumulate, sums);
    }
  }
  multiply_rows<V, kCols, kRows>(product_rows, left, panel, k_size, ahead, accumulate, sums);
}

// A product of rows of a step, row 0 of which is at `row_0`, and a panel.
template <class A>
struct PanelOperands {
  const A* row_0;
  int64_t row_stride;
  const void* panel;  // A or S
  int64_t k_size;
};

// The number of sums of all rows of a block.
constexpr int block_sums(int cols) { return tile_rows(cols) * cols; }

// Calls finish(row, count, sums) with the sums of the products for `count` rows from `row` on,
// until it had all rows; and prepare(row) for each some time before. sums [count][kCols] are those
// of all products or, with kApart, follow those of the product before after block_sums(kCols).
// next_panel will probably be the first panel of the next call.
template <class V, int kCols, bool kApart, int kProducts, class S, class Prepare, class Finish>
FUSEDRNN_HD void multiply_panel(PanelElement element, const OwnRows& rows,
                                const PanelOperands<accum_t<S>> (&operands)[kProducts],
                                const void* next_panel, const Prepare& prepare,
                                const Finish& finish) {
  using A = accum_t<S>;
  constexpr int kRows = tile_rows(kCols), kTiles = kCols / tile_cols(kCols);
  const int64_t blocks = (rows.count + kRows - 1) / kRows;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = rows.count * block / blocks;
    const int64_t last = rows.count * (block + 1) / blocks;
    for (int64_t idx = first; idx < last; ++idx) prepare(rows.first + idx);
    V sums[(kApart ? kProducts : 1) * block_sums(kCols)];
    for (int i = 0; i < kProducts; ++i) {
      const PanelOperands<A>& one = operands[i];
      const bool is_last = i + 1 == kProducts;
      const void* next = is_last ? next_panel : operands[is_last ? i : i + 1].panel;
      const int64_t next_size = operands[is_last ? 0 : i + 1].k_size;
      const RowMajor<A> left{one.row_0 + (rows.first + first) * one.row_stride, one.row_stride};
      const auto multiply = [&](auto max_rows, const auto* panel) {
        using P = std::remove_cv_t<std::remove_pointer_t<decltype(panel)>>;
        const NextPanel<V, kCols, P> ahead{static_cast<const P*>(next), next_size};
        multiply_block<V, kCols, decltype(max_rows)::value>(
            static_cast<int>(last - first), rows.step_count, left, panel, one.k_size,
            ahead.part(block * kTiles), !kApart && i > 0,
            sums + (kApart ? i : 0) * block_sums(kCols));
      };
      if constexpr (storage_panel_rows<S>() > 0) {
        static_assert(storage_panel_rows<S>() <= kRows, "one block has them");
        if (element == PanelElement::kStorage) {
          multiply(std::integral_constant<int, storage_panel_rows<S>()>{},
                   static_cast<const S*>(one.panel));
          continue;
        }
      }
      multiply(std::integral_constant<int, kRows>{}, static_cast<const A*>(one.panel));
    }
    finish(rows.first + first, last - first, sums);
  }
}

}  // namespace FUSEDRNN_ISA
}  // namespace fusedrnn
