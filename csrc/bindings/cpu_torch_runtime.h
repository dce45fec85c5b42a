// torch's threads, matrix products and memory as the CPU library's CpuRuntime.
#pragma once

#include "bindings/scratch.h"
#include "cpu/cpu_layer_runtime.h"

namespace fusedrnn {

// Threads that a parallel region may have now: torch's number, but no more than there are cores
// to run on, because a barrier with a thread that has none takes a time slice; or 1 inside another
// region.
int available_threads();

// Whether the threads of a region all run at the same time.
bool concurrent_threads();

// Whether a parallel region is built on OpenMP.
bool built_with_openmp();

// While one lives, what the calling thread asks of torch and of this library runs on no more
// threads than there are cores: a product of torch's on more waits a time slice at each of its
// barriers. In a forked process torch's products and loops run on the calling thread alone, because
// a thread pool does not survive a fork, and its first use in the child waits for ever; this
// library's parallel regions make threads of their own there. Other threads, and torch's own
// numbers of threads, are left as they are.
class ThreadsGuard {
 public:
  ThreadsGuard();
  ~ThreadsGuard();
  ThreadsGuard(const ThreadsGuard&) = delete;
  ThreadsGuard& operator=(const ThreadsGuard&) = delete;

 private:
  int restore_openmp_ = 0;  // 0: nothing to restore
  int restore_mkl_ = 0;
};

class TorchCpuRuntime final : public CpuRuntime {
 public:
  void parallel(int max_threads, ParallelBody body) override;
  void gemm(DType dtype, Transpose trans_a, Transpose trans_b, int64_t m, int64_t n, int64_t k,
            const void* a, int64_t lda, const void* b, int64_t ldb, double beta, void* c,
            int64_t ldc) override;
  bool repeats_gemm() const override;
  void* allocate(size_t bytes) override;

 private:
  Scratch scratch_;
};

}  // namespace fusedrnn
