#include "cpu/multiplier.h"

#include <algorithm>
#include <cstring>

namespace fusedrnn {

Multiplier::Multiplier(CpuLayer& layer, const KernelTable& table)
    : layer_(layer), has_matmul_(table.has_matmul && layer.is_persistent()) {}

void Multiplier::gemm(Transpose trans_a, Transpose trans_b, int64_t m, int64_t n, int64_t k,
                      const void* a, int64_t lda, const void* b, int64_t ldb, double beta, void* c,
                      int64_t ldc) const {
  if (m == 0 || n == 0) return;
  if (k == 0) {
    if (beta != 0) return;
    for (int64_t row = 0; row < m; ++row) {
      std::memset(layer_.accum(c, row * ldc), 0,
                  static_cast<size_t>(n * accum_bytes(layer_.shape.dtype)));
    }
    return;
  }
  layer_.runtime.gemm(layer_.accum_dtype, trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc);
}

void* Multiplier::allocate_panels(int64_t n, int64_t k) {
  const PanelCount count = layer_.dtype_kernels.count_matmul_panels(n, k);
  return layer_.allocate(count.panels * count.panel_elements);
}

Operand Multiplier::make_operand(Transpose trans_b, int64_t n, int64_t k, const void* b,
                                 int64_t ldb) {
  // Fewer rows are not worth packing for.
  constexpr int64_t kMinRows = 512;
  Operand operand{trans_b, n, k, b, ldb, nullptr};
  const bool has_few = layer_.chunk_max_rows < kMinRows;
  if (!has_matmul_ || (has_few && layer_.runtime.repeats_gemm())) return operand;
  operand.packed = allocate_panels(n, k);
  set_operand(n, k, b, ldb, &operand);
  return operand;
}

Operand Multiplier::make_rows_operand(int64_t max_cols) {
  Operand operand{Transpose::kNo, max_cols, 0, nullptr, max_cols, nullptr};
  if (!has_matmul_) return operand;
  operand.packed = allocate_panels(max_cols, layer_.chunk_max_rows);
  if (matmul_scratch_ == nullptr) {
    matmul_scratch_ =
        layer_.allocate(layer_.num_threads * layer_.dtype_kernels.matmul_scratch_elements);
  }
  return operand;
}

void Multiplier::set_operand(int64_t n, int64_t k, const void* b, int64_t ldb,
                             Operand* operand) const {
  operand->n = n;
  operand->k = k;
  operand->b = b;
  operand->ldb = ldb;
  if (operand->packed == nullptr || k == 0) return;
  const PanelCount count = layer_.dtype_kernels.count_matmul_panels(n, k);
  layer_.parallel(count.panels, count.panel_elements, [&](int64_t begin, int64_t end) {
    layer_.dtype_kernels.pack_matmul_panels(operand->trans, n, k, b, ldb, begin, end,
                                            operand->packed);
  });
}

void Multiplier::matmul(Transpose trans_a, int64_t m, int64_t k, const void* a, int64_t lda,
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
      panels += layer_.dtype_kernels.count_matmul_panels(operand.n, operand.k).panels;
      continue;
    }
    const int64_t skipped = product.first_k * (trans_a == Transpose::kYes ? lda : 1);
    gemm(trans_a, operand.trans, m, operand.n, operand.k, layer_.accum(a, skipped), lda, operand.b,
         operand.ldb, product.accumulate ? 1 : 0, product.c, product.ldc);
  }
  if (m == 0 || right_count == 0) return;
  constexpr int64_t kMultiplyAddsOfElement = 32;  // multiply-adds that take as long as one element
  const MatMulArgs args{trans_a, k, a, lda, rights, right_count};
  // Threads share whole tiles, so that their number changes no bit.
  const int64_t tile_rows = layer_.dtype_kernels.matmul_tile_rows;
  const bool split_rows = m >= panels;
  const int64_t parts = split_rows ? ceil_div(m, tile_rows) : panels;
  parallel_for(layer_.runtime, layer_.num_threads, parts,
               m * n / parts * k / kMultiplyAddsOfElement,
               [&](int thread_idx, int64_t begin, int64_t end) {
                 void* scratch = nullptr;
                 if (trans_a == Transpose::kYes) {
                   scratch = layer_.accum(
                       matmul_scratch_, thread_idx * layer_.dtype_kernels.matmul_scratch_elements);
                 }
                 if (split_rows) {
                   layer_.dtype_kernels.matmul(args, begin * tile_rows,
                                               std::min(end * tile_rows, m), 0, panels, scratch);
                 } else {
                   layer_.dtype_kernels.matmul(args, 0, m, begin, end, scratch);
                 }
               });
}

const void* Multiplier::pack(SweepProduct product, const void* weight, void* buffer,
                             int64_t buffer_bytes) {
  if (weight == nullptr) return nullptr;
  const PanelCount count = layer_.cell_kernels.count_panels(product, layer_.shape);
  const int64_t element_bytes = layer_.panel_element == PanelElement::kStorage
                                    ? dtype_bytes(layer_.shape.dtype)
                                    : accum_bytes(layer_.shape.dtype);
  const int64_t bytes = count.panels * count.panel_elements * element_bytes;
  void* packed = buffer != nullptr && bytes <= buffer_bytes ? buffer : layer_.allocate_bytes(bytes);
  layer_.parallel(count.panels, count.panel_elements, [&](int64_t begin, int64_t end) {
    layer_.cell_kernels.pack_panels(product, layer_.shape, layer_.panel_element, weight, begin, end,
                                    packed);
  });
  return packed;
}

}  // namespace fusedrnn
