// The matrix product of per_step's fused kernels: a block of kFusedThreads threads multiplies
// kFusedRows rows by kFusedUnits units with N columns each, by plain multiply-adds.
//
//   sum[n] = sum over k of a[row, k] * w(k, n, unit), row = warp_idx(), unit = lane_idx()
//
// The depth k goes through shared memory in tiles of kDepth, of which each pair of warps
// multiplies a slice, one warp half of the rows; the slices are added in a fixed order. The next
// tile is on its way from memory while one is multiplied.
#pragma once

#include "cuda/device/launch_shape.h"
#include "cuda/schedules/block.cuh"
#include "plan/cuda_plan.h"

namespace fusedrnn {

// How the weight lies in memory: rows n * hidden_size + unit of k, or rows k of units. The latter
// has N == 1.
enum class WeightLayout : int8_t { kUnitRows, kDepthRows };

template <class A, int N, WeightLayout kLayout>
class TileMatMul {
 public:
  static constexpr bool kUnitRows = kLayout == WeightLayout::kUnitRows;
  static_assert(kUnitRows || N == 1, "rows k have one column a unit");
  static_assert(kFusedUnits == kWarpSize && kFusedRows * kWarpSize == kFusedThreads,
                "a thread ends with one unit of one row");
  // Few columns leave room for a deeper tile, and fewer barriers.
  static constexpr int kDepth = kUnitRows ? kFusedDepth : 4 * kFusedDepth;
  static constexpr int kWarps = kFusedThreads / kWarpSize;
  static constexpr int kThreadRows = 4;
  static constexpr int kSlices = kWarps * kThreadRows / kFusedRows;
  static constexpr int kSliceDepth = kDepth / kSlices;
  static constexpr int kWeightLoads = kDepth * N * kFusedUnits / kFusedThreads;
  static constexpr int kLines = kWeightLoads / N;  // of a column, which this thread loads of
  static constexpr int kRows = kFusedRows, kUnits = kFusedUnits, kResidentBlocks = 1;
  static constexpr int kPitch = kFusedUnits + 1;  // no two of 32 units or depths share a bank
  static_assert(kFusedThreads % kDepth == 0, "a thread loads one k of each of its rows");

  // Shared memory: the tiles of w [N, kDepth, kPitch] and of a [kDepth, kFusedRows], both A, and
  // later over them the sums of the slices [kSlices, N, kFusedRows, kFusedUnits].
  static constexpr int kRowsOffset = (kDepth * N * kPitch + 3) / 4 * 4;
  static constexpr int64_t kTileElements = kRowsOffset + kDepth * kFusedRows;
  static constexpr int64_t kSumElements = int64_t{kSlices} * N * kFusedRows * kFusedUnits;
  static constexpr int64_t kSmemBytes =
      (kTileElements > kSumElements ? kTileElements : kSumElements) * int64_t{sizeof(A)};

  // w(k, n, unit) of the block is weight[(n * n_stride + unit) * row_stride + k], or
  // weight[k * row_stride + unit]; `units` of them exist, and what is beyond them is any other.
  FUSEDRNN_DEV TileMatMul(const A* weight, int64_t n_stride, int64_t row_stride, int64_t units,
                          int64_t depth)
      : depth_(static_cast<int>(depth)), line_stride_(kWarps * row_stride) {
    const int unit = kUnitRows ? warp_idx() : lane_idx();
    const int first_unit = unit < units ? unit : 0;
    const int first_k = kUnitRows ? lane_idx() : warp_idx();
#pragma unroll
    for (int n = 0; n < N; ++n) {
      weight_[n] = kUnitRows ? weight + (n * n_stride + first_unit) * row_stride + first_k
                             : weight + first_k * row_stride + first_unit;
    }
#pragma unroll
    for (int i = 0; i < kLines; ++i) {
      lines_[i] = !kUnitRows || unit + i * kWarps < units ? static_cast<int>(i * line_stride_) : 0;
    }
  }

  // The rows of `a`, of the block, that this thread loads of.
  static constexpr int kLaneRows = kDepth * kFusedRows / kFusedThreads;
  FUSEDRNN_DEV static int lane_row(int i) { return (thread_idx() + i * kFusedThreads) / kDepth; }

  FUSEDRNN_DEV void load_first_weights() { load_weights(0); }

  // rows[i] is lane_row(i), or null: zeros. Every thread of the block calls this, and then may read
  // the sums of any row and unit.
  template <class Barriers>
  FUSEDRNN_DEV void multiply(const A* const (&rows)[kLaneRows]) {
    const Shared<A> smem = shared_memory<A>(0);
    const int lane = lane_idx();
    const int first_row = warp_idx() % (kFusedRows / kThreadRows) * kThreadRows;
    const int slice = warp_idx() / (kFusedRows / kThreadRows);
    A partial[kThreadRows][N];
#pragma unroll
    for (int i = 0; i < kThreadRows; ++i) {
#pragma unroll
      for (int n = 0; n < N; ++n) partial[i][n] = A(0);
    }

    load_rows(0, rows);
    for (int k = 0; k < depth_; k += kDepth) {
      // Nobody reads the previous tile any more.
      if (k > 0) Barriers::template wait<0>();
      store_tile(smem);
      Barriers::template wait<1>();  // the tile is whole
      if (k + kDepth < depth_) {
        load_weights(k + kDepth);
        load_rows(k + kDepth, rows);
      }
      multiply_slice(smem, slice, first_row, lane, partial);
    }
    Barriers::template wait<2>();  // the sums overwrite the last tile

#pragma unroll
    for (int i = 0; i < kThreadRows; ++i) {
#pragma unroll
      for (int n = 0; n < N; ++n) {
        smem.store(sum_idx(slice, n, first_row + i, lane), partial[i][n]);
      }
    }
    Barriers::template wait<3>();  // every slice's sums are there
  }

  FUSEDRNN_DEV static void add_sums(int row, int unit, A (&sum)[N]) {
    const Shared<A> smem = shared_memory<A>(0);
#pragma unroll
    for (int n = 0; n < N; ++n) {
      sum[n] = A(0);
#pragma unroll
      for (int i = 0; i < kSlices; ++i) sum[n] += smem.load(sum_idx(i, n, row, unit));
    }
  }

 private:
  FUSEDRNN_DEV static int weight_idx(int k, int n, int unit) {
    return (n * kDepth + k) * kPitch + unit;
  }
  FUSEDRNN_DEV static int sum_idx(int slice, int n, int row, int unit) {
    return ((slice * N + n) * kFusedRows + row) * kFusedUnits + unit;
  }

  // Element i of this thread's share of the tile of w: consecutive lanes take what is consecutive
  // in memory.
  struct WeightElement {
    int k, n, unit;
  };
  FUSEDRNN_DEV static WeightElement weight_element(int i) {
    if constexpr (kUnitRows) {
      static_assert(!kUnitRows || kDepth == kWarpSize, "a lane loads one k of a row");
      return {lane_idx(), i / kLines, warp_idx() + i % kLines * kWarps};
    } else {
      return {warp_idx() + i * kWarps, 0, lane_idx()};
    }
  }

  // Asks for the weights of the tile from k on; tiles are asked for in order.
  FUSEDRNN_DEV void load_weights(int k) {
    const int depth = depth_ - k;
#pragma unroll
    for (int i = 0; i < kWeightLoads; ++i) {
      const WeightElement at = weight_element(i);
      weights_[i] = at.k < depth ? ldg(weight_[at.n] + lines_[i % kLines]) : A(0);
    }
#pragma unroll
    for (int n = 0; n < N; ++n) weight_[n] += kUnitRows ? kDepth : kLines * line_stride_;
  }

  FUSEDRNN_DEV void load_rows(int k, const A* const (&rows)[kLaneRows]) {
    const int own = k + thread_idx() % kDepth;
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) {
      rows_[i] = rows[i] != nullptr && own < depth_ ? load_global(rows[i] + own) : A(0);
    }
  }

  FUSEDRNN_DEV void store_tile(const Shared<A>& smem) const {
#pragma unroll
    for (int i = 0; i < kWeightLoads; ++i) {
      const WeightElement at = weight_element(i);
      smem.store(weight_idx(at.k, at.n, at.unit), weights_[i]);
    }
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) {
      smem.store(kRowsOffset + thread_idx() % kDepth * kFusedRows + lane_row(i), rows_[i]);
    }
  }

  FUSEDRNN_DEV static void multiply_slice(const Shared<A>& smem, int slice, int first_row, int lane,
                                          A (&partial)[kThreadRows][N]) {
#pragma unroll 8
    for (int i = 0; i < kSliceDepth; ++i) {
      const int k = slice * kSliceDepth + i;
      A row[kThreadRows];
      load_consecutive(smem, kRowsOffset + k * kFusedRows + first_row, row);
#pragma unroll
      for (int n = 0; n < N; ++n) {
        const A weight = smem.load(weight_idx(k, n, lane));
#pragma unroll
        for (int j = 0; j < kThreadRows; ++j) partial[j][n] += row[j] * weight;
      }
    }
  }

  const A* weight_[N];  // of this thread's first line of the next tile
  int depth_;
  int64_t line_stride_;  // elements from a line to the next one
  int lines_[kLines];    // offsets of this thread's lines of a column
  A weights_[kWeightLoads];
  A rows_[kLaneRows];
};

}  // namespace fusedrnn
