// Kernels over the rows of a matrix that know no cell: copies, column sums, ends of rows. Arguments
// and buffers are those of cuda_kernel_table.h.
#pragma once

#include "cuda/device/launch.cuh"
#include "cuda/schedules/step.cuh"

namespace fusedrnn {

constexpr int kRowThreads = 256;

// The element of this thread, of a grid of blocks along x.
FUSEDRNN_DEV int64_t flat_idx() { return block_idx_x() * kRowThreads + thread_idx(); }

inline LaunchShape flat_shape(int64_t elements) {
  LaunchShape shape;
  shape.grid_x = (elements + kRowThreads - 1) / kRowThreads;
  shape.threads = kRowThreads;
  return shape;
}

FUSEDRNN_DEV bool is_padding(const Padding& padding, int64_t row) {
  if (padding.lengths == nullptr) return false;
  row += padding.first_row;
  return row / padding.batch_size >= ldg(padding.lengths + row % padding.batch_size);
}

// dst = src of type T, or zeros, as S.
template <class T, class S>
struct Copy {
  using Args = CopyArgs;
  static constexpr const char* kName = "copy of rows";
  static constexpr int kMaxThreads = kRowThreads;

  static FUSEDRNN_DEV void run(const Args& args) {
    const int64_t idx = flat_idx();
    if (idx >= args.rows * args.cols) return;
    const int64_t row = idx / args.cols, col = idx % args.cols;
    const void* src = is_padding(args.padding, row) ? nullptr : args.src;
    store_at<S>(args.dst, row * args.dst_stride + col,
                load_or_zero<T>(src, row * args.src_stride + col));
  }
};

// A warp sums one slice of 32 columns.
template <class S>
struct SumColumns {
  using Args = SumColumnsArgs;
  using A = accum_t<S>;
  static constexpr const char* kName = "sums of rows";
  static constexpr int kMaxThreads = kRowThreads;
  static constexpr int kBlockSlices = kRowThreads / kWarpSize;
  static_assert(kSumSlices % kBlockSlices == 0, "blocks have whole slices");

  static LaunchShape shape(int64_t cols, int count) {
    LaunchShape shape;
    shape.grid_x = (cols + kWarpSize - 1) / kWarpSize;
    shape.grid_y = kSumSlices / kBlockSlices;
    shape.grid_z = count;
    shape.threads = kRowThreads;
    return shape;
  }

  static FUSEDRNN_DEV void run(const Args& args) {
    const int64_t col = block_idx_x() * kWarpSize + lane_idx();
    const int64_t slice = block_idx_y() * kBlockSlices + warp_idx();
    if (col >= args.cols) return;
    const void* src = args.src[block_idx_z()];
    A* partial = static_cast<A*>(args.partial[block_idx_z()]) + slice * args.cols + col;
    A sum = args.accumulate ? load_global(partial) : A(0);
#pragma unroll 8
    for (int64_t row = slice; row < args.rows; row += kSumSlices) {
      sum += load_at<S>(src, row * args.cols + col);
    }
    store_global(partial, sum);
  }
};

template <class S>
struct SumSlices {
  using Args = SumSlicesArgs;
  using A = accum_t<S>;
  static constexpr const char* kName = "sums of slices";
  static constexpr int kMaxThreads = kRowThreads;

  static FUSEDRNN_DEV void run(const Args& args) {
    const int64_t col = flat_idx();
    if (col >= args.cols) return;
    const void* partial = args.partial[block_idx_z()];
    A sum = A(0);
#pragma unroll 8
    for (int64_t slice = 0; slice < kSumSlices; ++slice) {
      sum += load_at<A>(partial, slice * args.cols + col);
    }
    store_at<S>(args.dst[block_idx_z()], col, sum);
  }
};

template <class S>
struct EndRows {
  using Args = EndRowsArgs;
  using A = accum_t<S>;
  static constexpr const char* kName = "ends of rows";
  static constexpr int kMaxThreads = kRowThreads;

  static FUSEDRNN_DEV void run(const Args& args) {
    const int64_t idx = flat_idx();
    if (idx >= args.rows * args.cols) return;
    const int64_t row = idx / args.cols, col = idx % args.cols;
    const int64_t time = row / args.padding.batch_size, b = row % args.padding.batch_size;
    const int64_t length = ldg(args.padding.lengths + b);
    const int64_t at = row * args.output_row_stride + col, state = b * args.cols + col;
    const bool is_forward = args.steps.direction == Direction::kForward;
    const bool is_last_time = time == args.steps.seq_len - 1 || time + 1 == length;
    if (time >= length) {
      store_at<S>(args.output, at, A(0));
      if (time == 0) store_at<S>(args.h_n, state, load_or_zero<S>(args.h_0, state));
    } else if (is_forward ? is_last_time : time == 0) {
      store_at<S>(args.h_n, state, load_at<S>(args.output, at));
    }
  }
};

}  // namespace fusedrnn
