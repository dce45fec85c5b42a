// Conversions between storage and accumulation type, sums and other plain passes over rows.
#pragma once

#include "cpu/isa/per_step.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

template <class S>
struct Rows {
  using A = accum_t<S>;
  using V = Pack<A>;

  static void load(const void* src, int64_t src_stride, const int64_t* order, void* dst,
                   int64_t dst_stride, int64_t rows, int64_t cols) {
    constexpr int64_t kAhead = 4;
    constexpr int64_t kLineElements = 64 / static_cast<int64_t>(sizeof(S));
    const auto* from = static_cast<const S*>(src);
    auto* to = static_cast<A*>(dst);
    for (int64_t row = 0; row < rows; ++row) {
      // In an order of their own, the machine does not guess which rows come next.
      if (order != nullptr && row + kAhead < rows) {
        const S* ahead = from + order[row + kAhead] * src_stride;
        for (int64_t col = 0; col < cols; col += kLineElements) prefetch(ahead + col);
      }
      const S* from_row = from + (order != nullptr ? order[row] : row) * src_stride;
      for_each_vector<V>(0, cols, [&](int64_t col, auto lanes) {
        store_lanes(load_lanes<V>(from_row + col, lanes), to + row * dst_stride + col, lanes);
      });
    }
  }

  static void store(const void* src, int64_t src_stride, void* dst, int64_t dst_stride,
                    int64_t rows, int64_t cols, bool accumulate) {
    const auto* from = static_cast<const A*>(src);
    auto* to = static_cast<S*>(dst);
    for_each_row_vector<V>(0, rows, cols, [&](int64_t row, int64_t col, auto lanes) {
      S* element = to + row * dst_stride + col;
      V value = load_lanes<V>(from + row * src_stride + col, lanes);
      if (accumulate) value += load_lanes<V>(element, lanes);
      store_lanes(value, element, lanes);
    });
  }

  // Adds blocks of rows, so that the rounding error grows with rows / kBlock.
  static void sum_columns(const void* src, int64_t src_stride, int64_t rows, int64_t col_begin,
                          int64_t col_end, void* sums) {
    constexpr int64_t kBlock = 64;
    const auto* from = static_cast<const A*>(src);
    auto* to = static_cast<A*>(sums);
    for (int64_t first = 0; first < rows; first += kBlock) {
      const int64_t last = rows - first < kBlock ? rows : first + kBlock;
      for_each_vector<V>(col_begin, col_end, [&](int64_t col, auto lanes) {
        V sum(0.0f);
        for (int64_t row = first; row < last; ++row) {
          sum += load_lanes<V>(from + row * src_stride + col, lanes);
        }
        store_lanes(sum + load_lanes<V>(to + col, lanes), to + col, lanes);
      });
    }
  }
};

}  // namespace FUSEDRNN_ISA
}  // namespace fusedrnn
