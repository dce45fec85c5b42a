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
struct TileMatMul {
  static constexpr bool kUnitRows = kLayout == WeightLayout::kUnitRows;
  static_assert(kUnitRows || N == 1, "rows k have one column a unit");
  static_assert(kFusedUnits == kWarpSize && kFusedRows * kWarpSize == kFusedThreads,
                "a thread ends with one unit of one row");
  // Few columns leave room for a deeper tile, and fewer barriers.
  static constexpr int kDepth = kUnitRows ? kFusedDepth : 4 * kFusedDepth;
  static constexpr int kThreadRows = 4;
  static constexpr int kSlices = kFusedThreads / kWarpSize * kThreadRows / kFusedRows;
  static constexpr int kSliceDepth = kDepth / kSlices;
  static constexpr int kWeightLoads = kDepth * N * kFusedUnits / kFusedThreads;
  static constexpr int kRowLoads = kDepth * kFusedRows / kFusedThreads;
  static constexpr bool kThreadLoadsOneRow = kRowLoads == 1 && kDepth == kWarpSize;
  static constexpr int kPitch = kFusedUnits + 1;  // no two of 32 units or depths share a bank

  // Shared memory: the tiles of w [N, kDepth, kPitch] and of a [kDepth, kFusedRows], both A, and
  // later over them the sums of the slices [kSlices, N, kFusedRows, kFusedUnits].
  static constexpr int kRowsOffset = (kDepth * N * kPitch + 3) / 4 * 4;
  static constexpr int64_t kTileElements = kRowsOffset + kDepth * kFusedRows;
  static constexpr int64_t kSumElements = int64_t{kSlices} * N * kFusedRows * kFusedUnits;
  static constexpr int64_t kSmemBytes =
      (kTileElements > kSumElements ? kTileElements : kSumElements) * int64_t{sizeof(A)};

  // load_weight(k, n, unit) and load_row(row, k) give elements of the block's part, k < depth;
  // beyond its units and rows anything, as their sums are. Every thread of the block calls this.
  // With kThreadLoadsOneRow a thread asks for row warp_idx() alone.
  template <class Barriers, class LoadWeight, class LoadRow>
  FUSEDRNN_DEV static void run(int64_t depth, const LoadWeight& load_weight,
                               const LoadRow& load_row, A (&sum)[N]) {
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

    A weights[kWeightLoads], rows[kRowLoads];
    load_tile(0, depth, load_weight, load_row, weights, rows);
    for (int64_t k = 0; k < depth; k += kDepth) {
      // Nobody reads the previous tile any more.
      if (k > 0) Barriers::template wait<0>();
      store_tile(smem, weights, rows);
      Barriers::template wait<1>();  // the tile is whole
      if (k + kDepth < depth) load_tile(k + kDepth, depth, load_weight, load_row, weights, rows);
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
#pragma unroll
    for (int n = 0; n < N; ++n) {
      sum[n] = A(0);
#pragma unroll
      for (int i = 0; i < kSlices; ++i) sum[n] += smem.load(sum_idx(i, n, warp_idx(), lane));
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
    const int line = warp_idx() + i * (kFusedThreads / kWarpSize);
    if constexpr (kUnitRows) {
      static_assert(!kUnitRows || kDepth == kWarpSize, "a lane loads one k of a row");
      return {lane_idx(), line / kFusedUnits, line % kFusedUnits};
    } else {
      return {line, 0, lane_idx()};
    }
  }

  template <class LoadWeight, class LoadRow>
  FUSEDRNN_DEV static void load_tile(int64_t first, int64_t depth, const LoadWeight& load_weight,
                                     const LoadRow& load_row, A (&weights)[kWeightLoads],
                                     A (&rows)[kRowLoads]) {
#pragma unroll
    for (int i = 0; i < kWeightLoads; ++i) {
      const WeightElement at = weight_element(i);
      weights[i] = first + at.k < depth ? load_weight(first + at.k, at.n, at.unit) : A(0);
    }
#pragma unroll
    for (int i = 0; i < kRowLoads; ++i) {
      const int idx = thread_idx() + i * kFusedThreads;
      const int64_t k = first + idx % kDepth;
      rows[i] = k < depth ? load_row(idx / kDepth, k) : A(0);
    }
  }

  FUSEDRNN_DEV static void store_tile(const Shared<A>& smem, const A (&weights)[kWeightLoads],
                                      const A (&rows)[kRowLoads]) {
#pragma unroll
    for (int i = 0; i < kWeightLoads; ++i) {
      const WeightElement at = weight_element(i);
      smem.store(weight_idx(at.k, at.n, at.unit), weights[i]);
    }
#pragma unroll
    for (int i = 0; i < kRowLoads; ++i) {
      const int idx = thread_idx() + i * kFusedThreads;
      smem.store(kRowsOffset + idx % kDepth * kFusedRows + idx / kDepth, rows[i]);
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
};

}  // namespace fusedrnn
