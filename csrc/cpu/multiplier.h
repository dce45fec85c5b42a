// Products of whole matrices, by kernels of this library where they are worth it or by the
// runtime's, and the packing of their operands and of the weights of a sweep.
#pragma once

#include "cpu/cpu_layer.h"

namespace fusedrnn {

// The right operand of a product of whole matrices.
struct Operand {
  Transpose trans;
  int64_t n, k;
  const void* b;  // A, as given
  int64_t ldb;
  void* packed;  // A, or null
};

// A product with an operand: c = or, if `accumulate`, += op(a) * operand, whose b goes with op(a)
// from its k first_k on.
struct Product {
  const Operand* operand;
  int64_t first_k;
  bool accumulate;
  void* c;  // A
  int64_t ldc;
};

class Multiplier {
 public:
  Multiplier(CpuLayer& layer, const KernelTable& table);

  // c = op(a) * op(b) + beta * c on A; defined for every size, 0 included.
  void gemm(Transpose trans_a, Transpose trans_b, int64_t m, int64_t n, int64_t k, const void* a,
            int64_t lda, const void* b, int64_t ldb, double beta, void* c, int64_t ldc) const;

  // op(b) [k, n] of a weight for matmul with the rows of a chunk: packed into new scratch, or as it
  // is for the runtime's products.
  Operand make_operand(Transpose trans_b, int64_t n, int64_t k, const void* b, int64_t ldb);
  // An operand for matmul of a transposed a. Before each use set_operand gives it a b with a row
  // for each row of a chunk, or of fewer, and at most so many columns.
  Operand make_rows_operand(int64_t max_cols);
  void set_operand(int64_t n, int64_t k, const void* b, int64_t ldb, Operand* operand) const;
  // At most kMaxProducts products of one op(a) [m, k].
  static constexpr int kMaxProducts = 2;
  void matmul(Transpose trans_a, int64_t m, int64_t k, const void* a, int64_t lda,
              const Product* products, int count) const;

  // The packed weight of a product, in `buffer` if it has room there, else in new scratch; null for
  // a null weight.
  const void* pack(SweepProduct product, const void* weight, void* buffer = nullptr,
                   int64_t buffer_bytes = 0);

 private:
  // Scratch memory for the panels of an operand.
  void* allocate_panels(int64_t n, int64_t k);

  CpuLayer& layer_;
  bool has_matmul_;
  void* matmul_scratch_ = nullptr;  // A, of a transposed a, a piece for each thread
};

}  // namespace fusedrnn
