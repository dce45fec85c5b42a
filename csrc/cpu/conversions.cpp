#include "cpu/conversions.h"

#include <cstring>

namespace fusedrnn {

const void* Conversions::as_accum(const void* src, int64_t row_count, int64_t cols, void* copy) {
  if (layer_.is_accum || src == nullptr) return src;
  if (copy == nullptr) copy = layer_.allocate(row_count * cols);
  layer_.parallel(row_count, cols, [&](int64_t begin, int64_t end) {
    layer_.dtype_kernels.load_rows(layer_.storage(src, begin * cols), cols, nullptr,
                                   layer_.accum(copy, begin * cols), cols, end - begin, cols);
  });
  return copy;
}

const void* Conversions::load_steps(const void* src, int64_t begin, int64_t end, int64_t cols,
                                    void* copy) {
  const RowRange range = layer_.chunk_rows(begin, end);
  if (layer_.steps.order == nullptr) {
    return as_accum(layer_.storage(src, range.first * cols), range.count, cols, copy);
  }
  const SweepSteps& steps = layer_.steps;
  layer_.for_each_step(begin, end, cols, [&](int64_t s) {
    layer_.dtype_kernels.load_rows(
        layer_.storage(src, steps.caller_row(s) * cols), cols, steps.order,
        layer_.accum(copy, (steps.row(s) - range.first) * cols), cols, steps.rows(s), cols);
  });
  return copy;
}

void Conversions::store_steps(const void* src, int64_t begin, int64_t end, int64_t cols,
                              bool accumulate, void* dst) const {
  const RowRange range = layer_.chunk_rows(begin, end);
  if (layer_.steps.order == nullptr) {
    layer_.parallel(range.count, cols, [&](int64_t first, int64_t last) {
      layer_.dtype_kernels.store_rows(layer_.accum(src, first * cols), cols,
                                      layer_.storage(dst, (range.first + first) * cols), cols,
                                      last - first, cols, accumulate);
    });
    return;
  }
  const SweepSteps& steps = layer_.steps;
  layer_.for_each_step(begin, end, cols, [&](int64_t s) {
    for (int64_t row = 0; row < steps.rows(s); ++row) {
      layer_.dtype_kernels.store_rows(layer_.accum(src, (steps.row(s) - range.first + row) * cols),
                                      cols, layer_.storage(dst, steps.caller_row(s, row) * cols),
                                      cols, 1, cols, accumulate);
    }
  });
}

void Conversions::load_state(const void* src, int64_t row_count, int64_t cols, void* dst) const {
  if (src != nullptr) {
    layer_.dtype_kernels.load_rows(src, cols, nullptr, dst, cols, row_count, cols);
  } else {
    std::memset(dst, 0, static_cast<size_t>(row_count * cols * accum_bytes(layer_.shape.dtype)));
  }
}

void* Conversions::load_state(const void* src, int64_t row_count, int64_t cols) {
  void* state = layer_.allocate(row_count * cols);
  load_state(src, row_count, cols, state);
  return state;
}

}  // namespace fusedrnn
