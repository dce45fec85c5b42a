// c = op(a) * op(b) + beta * c on the GPU by plain loops, a thread an element of c. The tests have
// no other product, so that every kernel they run is one that a sanitizer can follow.
#include "cuda/schedules/rows.cuh"
#include "test_device.h"

namespace oracle {

namespace {

template <class In, class Out>
struct Product {
  using Args = GemmArgs;
  static constexpr const char* kName = "plain product";
  static constexpr int kMaxThreads = kRowThreads;

  static FUSEDRNN_DEV void run(const Args& p) {
    const int64_t idx = flat_idx();
    if (idx >= p.m * p.n) return;
    const int64_t row = idx / p.n, col = idx % p.n;
    const In* a = static_cast<const In*>(p.a);
    const In* b = static_cast<const In*>(p.b);
    Out* c = static_cast<Out*>(p.c) + row * p.ldc + col;
    accum_t<In> sum = 0;
    for (int64_t i = 0; i < p.k; ++i) {
      sum += to_accum(a[p.trans_a == Transpose::kYes ? i * p.lda + row : row * p.lda + i]) *
             to_accum(b[p.trans_b == Transpose::kYes ? col * p.ldb + i : i * p.ldb + col]);
    }
    if (p.beta != 0) sum += to_accum(*c);
    *c = from_accum<Out>(sum);
  }
};

}  // namespace

template <class In, class Out>
Status enqueue_product(const GemmArgs& product) {
  return launch<Product<In, Out>>(flat_shape(product.m * product.n), product, device_stream());
}

template Status enqueue_product<float, float>(const GemmArgs&);
template Status enqueue_product<double, double>(const GemmArgs&);
template Status enqueue_product<BFloat16, float>(const GemmArgs&);
template Status enqueue_product<BFloat16, BFloat16>(const GemmArgs&);
template Status enqueue_product<Float16, float>(const GemmArgs&);
template Status enqueue_product<Float16, Float16>(const GemmArgs&);

}  // namespace oracle
