#include "cpu/layer.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

namespace fusedrnn {

namespace {

SweepSteps make_steps(const LayerShape& shape, Runtime& runtime) {
  SweepSteps steps{
      {nullptr, shape.seq_len, shape.batch_size, shape.direction}, shape.order, shape.padded_rows};
  if (shape.batch_sizes != nullptr) {
    auto* offsets = static_cast<int64_t*>(
        runtime.scratch(static_cast<size_t>(shape.seq_len + 1) * sizeof(int64_t)));
    offsets[0] = 0;
    for (int64_t t = 0; t < shape.seq_len; ++t) offsets[t + 1] = offsets[t] + shape.batch_sizes[t];
    steps.offsets = offsets;
  }
  return steps;
}

// Aligned to a pair of cache lines.
TeamSlot* take_team(int num_threads, Runtime& runtime) {
  constexpr uintptr_t kAlign = 128;
  static_assert(sizeof(TeamSlot) % kAlign == 0, "slots share no pair of lines");
  const auto piece = reinterpret_cast<uintptr_t>(
      runtime.scratch(static_cast<size_t>(num_threads) * sizeof(TeamSlot) + kAlign));
  return reinterpret_cast<TeamSlot*>((piece + kAlign - 1) / kAlign * kAlign);
}

}  // namespace

void rest_thread() {
#if defined(_WIN32)
  std::this_thread::yield();  // the shortest sleep is milliseconds
#else
  std::this_thread::sleep_for(std::chrono::microseconds(20));
#endif
}

Layer::Layer(const LayerShape& layer_shape, const Plan& layer_plan, const KernelTable& table,
             Runtime& layer_runtime)
    : shape(layer_shape),
      plan(layer_plan),
      has_matmul(table.has_matmul && layer_plan.schedule == Schedule::kPersistent),
      cell(cell_info(layer_shape.cell)),
      rows(table.dtypes[static_cast<int>(layer_shape.dtype)]),
      kernels(*rows.cells[static_cast<int>(layer_shape.cell)]),
      runtime(layer_runtime),
      steps(make_steps(layer_shape, layer_runtime)),
      accum_dtype(layer_shape.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32),
      is_accum(layer_shape.dtype == accum_dtype),
      num_threads(std::max(plan.num_threads, 1)),
      gate_size(cell.gates * layer_shape.hidden_size),
      hidden_size(layer_shape.hidden_size),
      output_size(layer_shape.output_size()),
      chunk_steps(std::clamp<int64_t>(plan.chunk_steps, 1, std::max<int64_t>(shape.seq_len, 1))),
      chunk_max_rows(std::min(chunk_steps * shape.batch_size, shape.total_rows)),
      panel_element(shape.batch_size <= rows.storage_panel_rows ? PanelElement::kStorage
                                                                : PanelElement::kAccum) {
  if (!is_persistent()) return;
  team = take_team(num_threads, runtime);
}

void* Layer::take_zeros(int64_t elements) {
  void* piece = take(elements);
  std::memset(piece, 0, static_cast<size_t>(elements * accum_bytes(shape.dtype)));
  return piece;
}

const void* Layer::pack(SweepProduct product, const void* weight, void* place,
                        int64_t place_bytes) {
  if (weight == nullptr) return nullptr;
  const PanelCount count = kernels.count_panels(product, shape);
  const int64_t element_bytes =
      panel_element == PanelElement::kStorage ? dtype_bytes(shape.dtype) : accum_bytes(shape.dtype);
  const int64_t bytes = count.panels * count.panel_elements * element_bytes;
  void* packed = place != nullptr && bytes <= place_bytes ? place : take_bytes(bytes);
  parallel(count.panels, count.panel_elements, [&](int64_t begin, int64_t end) {
    kernels.pack_panels(product, shape, panel_element, weight, begin, end, packed);
  });
  return packed;
}

const void* Layer::as_accum(const void* src, int64_t row_count, int64_t cols, void* copy) {
  if (is_accum || src == nullptr) return src;
  if (copy == nullptr) copy = take(row_count * cols);
  parallel(row_count, cols, [&](int64_t begin, int64_t end) {
    rows.load_rows(storage(src, begin * cols), cols, accum(copy, begin * cols), cols, end - begin,
                   cols);
  });
  return copy;
}

const void* Layer::load_steps(const void* src, int64_t begin, int64_t end, int64_t cols,
                              void* copy) {
  const RowRange range = chunk_rows(begin, end);
  if (steps.order == nullptr) {
    return as_accum(storage(src, range.first * cols), range.count, cols, copy);
  }
  for_each_row(begin, end, cols, [&](int64_t place, int64_t row) {
    rows.load_rows(storage(src, place * cols), cols, accum(copy, (row - range.first) * cols), cols,
                   1, cols);
  });
  return copy;
}

void Layer::store_steps(const void* src, int64_t begin, int64_t end, int64_t cols, bool accumulate,
                        void* dst) const {
  const RowRange range = chunk_rows(begin, end);
  if (steps.order == nullptr) {
    parallel(range.count, cols, [&](int64_t first, int64_t last) {
      rows.store_rows(accum(src, first * cols), cols, storage(dst, (range.first + first) * cols),
                      cols, last - first, cols, accumulate);
    });
    return;
  }
  for_each_row(begin, end, cols, [&](int64_t place, int64_t row) {
    rows.store_rows(accum(src, (row - range.first) * cols), cols, storage(dst, place * cols), cols,
                    1, cols, accumulate);
  });
}

void Layer::load_state(const void* src, int64_t row_count, int64_t cols, void* dst) const {
  if (src != nullptr) {
    rows.load_rows(src, cols, dst, cols, row_count, cols);
  } else {
    std::memset(dst, 0, static_cast<size_t>(row_count * cols * accum_bytes(shape.dtype)));
  }
}

void* Layer::take_state(const void* src, int64_t row_count, int64_t cols) {
  void* state = take(row_count * cols);
  load_state(src, row_count, cols, state);
  return state;
}

void Layer::gemm(Transpose trans_a, Transpose trans_b, int64_t m, int64_t n, int64_t k,
                 const void* a, int64_t lda, const void* b, int64_t ldb, double beta, void* c,
                 int64_t ldc) const {
  if (m == 0 || n == 0) return;
  if (k == 0) {
    if (beta != 0) return;
    for (int64_t row = 0; row < m; ++row) {
      std::memset(accum(c, row * ldc), 0, static_cast<size_t>(n * accum_bytes(shape.dtype)));
    }
    return;
  }
  runtime.gemm(accum_dtype, trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc);
}

void* Layer::take_panels(int64_t n, int64_t k) {
  const PanelCount count = rows.count_matmul_panels(n, k);
  return take(count.panels * count.panel_elements);
}

Operand Layer::take_operand(Transpose trans_b, int64_t n, int64_t k, const void* b, int64_t ldb) {
  // Fewer rows are not worth packing for.
  constexpr int64_t kMinRows = 512;
  Operand operand{trans_b, n, k, b, ldb, nullptr};
  if (!has_matmul || (chunk_max_rows < kMinRows && runtime.repeats_products())) return operand;
  operand.packed = take_panels(n, k);
  set_operand(n, k, b, ldb, &operand);
  return operand;
}

Operand Layer::take_rows_operand(int64_t max_cols) {
  Operand operand{Transpose::kNo, max_cols, 0, nullptr, max_cols, nullptr};
  if (!has_matmul) return operand;
  operand.packed = take_panels(max_cols, chunk_max_rows);
  if (matmul_scratch == nullptr) {
    matmul_scratch = take(num_threads * rows.matmul_scratch_elements);
  }
  return operand;
}

void Layer::set_operand(int64_t n, int64_t k, const void* b, int64_t ldb, Operand* operand) const {
  operand->n = n;
  operand->k = k;
  operand->b = b;
  operand->ldb = ldb;
  if (operand->packed == nullptr || k == 0) return;
  const PanelCount count = rows.count_matmul_panels(n, k);
  parallel(count.panels, count.panel_elements, [&](int64_t begin, int64_t end) {
    rows.pack_matmul_panels(operand->trans, n, k, b, ldb, begin, end, operand->packed);
  });
}

void Layer::matmul(Transpose trans_a, int64_t m, int64_t k, const void* a, int64_t lda,
                   const Product* products, int count) const {
  MatMulRight rights[kMaxProducts];
  int right_count = 0;
  int64_t n = 0, panels = 0;
  for (int i = 0; i < count; ++i) {
    const Product& product = products[i];
    const Operand& operand = *product.operand;
    if (operand.packed != nullptr && operand.n > 0 && operand.k > 0) {
      rights[right_count++] = {operand.n,          operand.k, product.first_k, operand.packed,
                               product.accumulate, product.c, product.ldc};
      n += operand.n;
      panels += rows.count_matmul_panels(operand.n, operand.k).panels;
      continue;
    }
    const int64_t skipped = product.first_k * (trans_a == Transpose::kYes ? lda : 1);
    gemm(trans_a, operand.trans, m, operand.n, operand.k, accum(a, skipped), lda, operand.b,
         operand.ldb, product.accumulate ? 1 : 0, product.c, product.ldc);
  }
  if (m == 0 || right_count == 0) return;
  constexpr int64_t kProductsOfElement = 32;  // multiply-adds that take as long as one element
  const MatMulArgs args{trans_a, k, a, lda, rights, right_count};
  const bool split_rows = m >= panels;
  const int64_t parts = split_rows ? m : panels;
  parallel_for(runtime, num_threads, parts, m * n / parts * k / kProductsOfElement,
               [&](int thread_idx, int64_t begin, int64_t end) {
                 void* scratch = nullptr;
                 if (trans_a == Transpose::kYes) {
                   scratch = accum(matmul_scratch, thread_idx * rows.matmul_scratch_elements);
                 }
                 if (split_rows) {
                   rows.matmul(args, begin, end, 0, panels, scratch);
                 } else {
                   rows.matmul(args, 0, m, begin, end, scratch);
                 }
               });
}

RowRange Layer::chunk_rows(int64_t begin, int64_t end) const {
  const int64_t first = std::min(steps.row(begin), steps.row(end - 1));
  const int64_t last =
      std::max(steps.row(begin) + steps.rows(begin), steps.row(end - 1) + steps.rows(end - 1));
  return {first, last - first};
}

}  // namespace fusedrnn
