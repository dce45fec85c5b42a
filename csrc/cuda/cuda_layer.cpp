#include "cuda/cuda_layer.h"

#include <algorithm>

namespace fusedrnn {

CudaLayer::CudaLayer(const LayerShape* const* shapes, int num_directions,
                     const CudaPlan& layer_plan, const CudaKernels& layer_kernels,
                     CudaRuntime& layer_runtime)
    : shape(*shapes[0]),
      directions(num_directions),
      plan(layer_plan),
      kernels(layer_kernels),
      runtime(layer_runtime),
      stream(layer_runtime.stream()),
      cell(cell_info(shape.cell)),
      dtype(shape.dtype),
      accum_dtype(shape.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32),
      gate_size(cell.gates * shape.hidden_size),
      hidden_size(shape.hidden_size),
      output_size(shape.output_size()),
      chunk_steps(std::clamp<int64_t>(plan.chunk_steps, 1, shape.seq_len)),
      chunk_max_rows(std::min(chunk_steps * shape.batch_size, shape.total_rows)),
      storage_bytes_(dtype_bytes(shape.dtype)),
      accum_bytes_(accum_bytes(shape.dtype)) {
  if (shape.batch_sizes != nullptr) {
    offsets_.reserve(static_cast<size_t>(shape.seq_len + 1));
    offsets_.push_back(0);
    for (int64_t t = 0; t < shape.seq_len; ++t) {
      offsets_.push_back(offsets_.back() + shape.batch_sizes[t]);
    }
  }
  for (int d = 0; d < directions; ++d) {
    steps[d] = {offsets_.empty() ? nullptr : offsets_.data(), shape.seq_len, shape.batch_size,
                shapes[d]->direction};
  }
}

void CudaLayer::multiply(DType out, Transpose trans_a, Transpose trans_b, int64_t m, int64_t n,
                         int64_t k, Matrix a, Matrix b, double beta, void* c,
                         int64_t c_row_stride) {
  if (!status.ok || m == 0 || n == 0) return;
  note(runtime.gemm({dtype, out, trans_a, trans_b, m, n, k, a.data, a.row_stride, b.data,
                     b.row_stride, beta, c, c_row_stride}));
}

void CudaLayer::copy(Matrix src, void* dst, int64_t dst_stride, int64_t rows, int64_t cols,
                     const Padding& padding) {
  if (!status.ok || dst == nullptr || rows == 0 || cols == 0) return;
  note(
      kernels.dtype.copy({src.data, src.row_stride, dst, dst_stride, rows, cols, padding}, stream));
}

// Zeros have the same bits in every type.
void CudaLayer::zero_accum(void* dst, int64_t elements) {
  const int64_t count = elements * accum_bytes_ / storage_bytes_;
  copy({nullptr, 0}, dst, count, 1, count);
}

RowRange CudaLayer::chunk_rows(int direction, int64_t begin, int64_t end) const {
  const Steps& of_direction = steps[direction];
  const bool is_forward = of_direction.direction == Direction::kForward;
  const int64_t first = of_direction.row(is_forward ? begin : end - 1);
  const int64_t last = is_forward ? end - 1 : begin;
  return {first, of_direction.row(last) + of_direction.rows(last) - first};
}

}  // namespace fusedrnn
