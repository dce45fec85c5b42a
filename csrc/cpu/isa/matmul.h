// Products of whole matrices on the tiles of panel.h: c = op(a) * b, or c += op(a) * b, where b
// has been packed into panels. The layer's input projection and gradients spend here what the
// sweep does not.
//
// The panels are read once for each block of rows of a; a block of them and one panel stay in
// the second cache. A transposed block is interleaved first.
#pragma once

#include <cstring>

#include "cpu/cpu_layer_runtime.h"
#include "cpu/isa/pack_weights.h"
#include "cpu/isa/panel.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

template <class A>
struct MatMul {
  using V = Pack<A>;
  static constexpr int kCols = 2;  // vectors of a panel
  static constexpr int kRows = tile_rows(kCols);
  static constexpr int64_t kBlockDepth = 1024;       // of k
  static constexpr int64_t kBlockRows = kRows * 16;  // of a

  FUSEDRNN_HD static PanelLayout layout(Transpose trans_b, int64_t n, int64_t k, int64_t ldb) {
    return trans_b == Transpose::kYes ? PanelLayout{n, k, 0, ldb, 1, 1, kCols}
                                      : PanelLayout{n, k, 0, 1, ldb, 1, kCols};
  }

  static PanelCount count(int64_t n, int64_t k) {
    const PanelLayout panels = layout(Transpose::kNo, n, k, n);
    return {panels.panel_count<V>(), panels.panel_elements<V>()};
  }

  static void pack(Transpose trans_b, int64_t n, int64_t k, const void* b, int64_t ldb,
                   int64_t panel_begin, int64_t panel_end, void* packed) {
    pack_panels<V>(layout(trans_b, n, k, ldb), static_cast<const A*>(b), panel_begin, panel_end,
                   static_cast<A*>(packed));
  }

  // Elements of scratch that multiply needs for a transposed a.
  static constexpr int64_t kScratchElements = kBlockRows * kBlockDepth;

  static void multiply(const MatMulArgs& args, int64_t row_begin, int64_t row_end,
                       int64_t panel_begin, int64_t panel_end, void* scratch) {
    for (int64_t k = 0; k < args.k; k += kBlockDepth) {
      const int64_t depth = args.k - k < kBlockDepth ? args.k - k : kBlockDepth;
      for (int64_t row = row_begin; row < row_end; row += kBlockRows) {
        const int64_t rows = row_end - row < kBlockRows ? row_end - row : kBlockRows;
        if (args.trans_a == Transpose::kYes) {
          auto* block = static_cast<A*>(scratch);
          interleave(static_cast<const A*>(args.a) + k * args.lda + row, args.lda, rows, depth,
                     block);
          multiply_block_of_a(
              args, k, depth, row, rows, panel_begin, panel_end,
              [&](int64_t first) { return Interleaved<A, kRows>{block + first * depth}; });
        } else {
          const A* block = static_cast<const A*>(args.a) + row * args.lda + k;
          multiply_block_of_a(
              args, k, depth, row, rows, panel_begin, panel_end,
              [&](int64_t first) { return RowMajor<A>{block + first * args.lda, args.lda}; });
        }
      }
    }
  }

 private:
  // block [rows / kRows][depth][kRows] = a [depth, rows] with row stride lda; the last rows of
  // the block may be left out. Few k at a time, so that a line of the block is filled at once.
  FUSEDRNN_HD static void interleave(const A* a, int64_t lda, int64_t rows, int64_t depth,
                                     A* block) {
    constexpr int64_t kFewK = 8;
    for (int64_t k_begin = 0; k_begin < depth; k_begin += kFewK) {
      const int64_t k_end = depth - k_begin < kFewK ? depth : k_begin + kFewK;
      int64_t row = 0;
      for (; row + kRows <= rows; row += kRows) {
        for (int64_t k = k_begin; k < k_end; ++k) {
          std::memcpy(block + row * depth + k * kRows, a + k * lda + row, kRows * sizeof(A));
        }
      }
      for (int64_t k = k_begin; row < rows && k < k_end; ++k) {
        std::memcpy(block + row * depth + k * kRows, a + k * lda + row, (rows - row) * sizeof(A));
      }
    }
  }

  // Multiplies `depth` of k, from k on, of `rows` rows by their part of each right operand.
  // left(first) is the left operand from row `first` of the block on, a multiple of kRows.
  template <class LeftAt>
  FUSEDRNN_HD static void multiply_block_of_a(const MatMulArgs& args, int64_t k, int64_t depth,
                                              int64_t row, int64_t rows, int64_t panel_begin,
                                              int64_t panel_end, const LeftAt& left) {
    for (int i = 0; i < args.right_count; ++i) {
      const MatMulRight& right = args.rights[i];
      const int64_t panels = count(right.n, right.k).panels;
      const int64_t first = right.first_k > k ? right.first_k : k;
      const int64_t end = right.first_k + right.k < k + depth ? right.first_k + right.k : k + depth;
      if (first < end) {
        multiply_rows_of_block(
            right, first - right.first_k, end - first, rows, panel_begin > 0 ? panel_begin : 0,
            panel_end < panels ? panel_end : panels, static_cast<A*>(right.c) + row * right.ldc,
            [&](int64_t left_row) { return left(left_row).from(first - k); });
      }
      panel_begin -= panels;
      panel_end -= panels;
    }
  }

  // Sets rows of c, from `c` on, to those of left times `depth` of the k of b, from k on, or adds
  // them.
  template <class LeftAt>
  FUSEDRNN_HD static void multiply_rows_of_block(const MatMulRight& right, int64_t k, int64_t depth,
                                                 int64_t rows, int64_t panel_begin,
                                                 int64_t panel_end, A* c, const LeftAt& left) {
    const bool accumulate = right.accumulate || k > 0;
    constexpr int64_t kPanelCols = kCols * V::kLanes;
    for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
      const A* weights = static_cast<const A*>(right.packed_b) + (panel * right.k + k) * kPanelCols;
      const NextPanel<V, kCols, A> next{
          panel + 1 < panel_end ? weights + right.k * kPanelCols : weights, depth};
      const int64_t col = panel * kPanelCols;
      const int64_t col_end = right.n - col < kPanelCols ? right.n : col + kPanelCols;
      for (int64_t first = 0; first < rows; first += kRows) {
        const int count = static_cast<int>(rows - first < kRows ? rows - first : kRows);
        for (int row = 0; row < count; ++row) prefetch(c + (first + row) * right.ldc + col);
        V sums[kRows * kCols];
        multiply_block<V, kCols>(count, count, left(first), weights, depth,
                                 next.part(first / kRows), false, sums);
        for (int row = 0; row < count; ++row) {
          const V* sum = sums + row * kCols;
          for_each_vector<V>(col, col_end, [&](int64_t unit, auto lanes) {
            A* element = c + (first + row) * right.ldc + unit;
            store_lanes(accumulate ? *sum + load_lanes<V>(element, lanes) : *sum, element, lanes);
            ++sum;
          });
        }
      }
    }
  }
};

}  // namespace FUSEDRNN_ISA
}  // namespace fusedrnn
