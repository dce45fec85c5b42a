// What the CPU kernels need from outside: threads, large matrix products, memory.
// The bindings pass torch's; the native tests pass plain loops.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/types.h"

namespace fusedrnn {

// A borrowed callable: body(thread_idx, num_threads).
class ParallelBody {
 public:
  template <class F>
  ParallelBody(F& f)  // NOLINT: implicit by design
      : object_(&f), call_([](void* object, int thread_idx, int num_threads) {
          (*static_cast<F*>(object))(thread_idx, num_threads);
        }) {}
  void operator()(int thread_idx, int num_threads) const {
    call_(object_, thread_idx, num_threads);
  }

 private:
  void* object_;
  void (*call_)(void*, int, int);
};

class CpuRuntime {
 public:
  virtual ~CpuRuntime() = default;

  // Runs body once on each of n threads, 1 <= n <= max_threads, n chosen by the runtime;
  // thread_idx is in [0, n). All n run at the same time if CpuInfo::concurrent_threads said so.
  virtual void parallel(int max_threads, ParallelBody body) = 0;

  // c = op(a) * op(b) + beta * c, row-major, beta 0 or 1; with beta 0, c is not read.
  // op(a) is [m, k], op(b) is [k, n], c is [m, n]; lda, ldb, ldc are the row strides in
  // elements of a, b, c as stored. dtype is kFloat32 or kFloat64. Any size may be 0.
  virtual void gemm(DType dtype, Transpose trans_a, Transpose trans_b, int64_t m, int64_t n,
                    int64_t k, const void* a, int64_t lda, const void* b, int64_t ldb, double beta,
                    void* c, int64_t ldc) = 0;

  // Whether gemm gives the same bits on any number of threads. Where it does not, the kernels
  // multiply few rows as well by themselves.
  virtual bool repeats_gemm() const = 0;

  // Scratch memory aligned to 64 bytes, uninitialised, valid until the CpuRuntime is destroyed.
  virtual void* allocate(size_t bytes) = 0;
};

}  // namespace fusedrnn
