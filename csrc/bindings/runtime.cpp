#include "bindings/runtime.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm_cpu_dispatch.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm_cpu_dispatch.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <limits>
#include <utility>

#ifdef _OPENMP
#include <omp.h>
#endif
#ifndef _WIN32
#include <pthread.h>
#endif

namespace fusedrnn {
namespace {

#ifndef _WIN32
// A child of a process that ran kernels inherits a pool whose threads are gone.
std::atomic<bool> ran_kernels{false};
std::atomic<bool> forked{false};
const int fork_handler = pthread_atfork(nullptr, nullptr, [] { forked = ran_kernels.load(); });
#else
std::atomic<bool> ran_kernels{false};
constexpr struct {
  bool load(std::memory_order) const { return false; }
} forked;
#endif

// The stored matrix at `data` with row stride ld, seen as op of it.
at::Tensor matrix(DType dtype, Transpose transpose, const void* data, int64_t rows, int64_t cols,
                  int64_t ld) {
  const auto options =
      at::TensorOptions().dtype(dtype == DType::kFloat64 ? at::kDouble : at::kFloat);
  const bool plain = transpose == Transpose::kNo;
  return at::from_blob(const_cast<void*>(data), {rows, cols},
                       plain ? at::IntArrayRef{ld, 1} : at::IntArrayRef{1, ld}, options);
}

// Of the calling thread's affinity; or all of them, where OpenMP itself has bound each thread.
int available_cores() {
#ifdef _OPENMP
  return omp_get_num_procs();
#else
  return std::numeric_limits<int>::max();
#endif
}

}  // namespace

bool built_with_openmp() {
#ifdef _OPENMP
  return true;
#else
  return false;
#endif
}

bool concurrent_threads() { return built_with_openmp(); }

int available_threads() {
#ifdef _OPENMP
  if (omp_in_parallel()) return 1;
#endif
  const int threads = at::get_num_threads();
  if (threads == 1 || at::in_parallel_region()) return 1;
  return std::min(threads, available_cores());  // which asks the system
}

ThreadsGuard::ThreadsGuard() {
  ran_kernels.store(true, std::memory_order_relaxed);
  const int threads = at::get_num_threads();
  if (threads == 1) return;
  const int allowed = forked.load(std::memory_order_relaxed) ? 1 : available_cores();
  if (allowed >= threads) return;
  restore_threads_ = threads;
  at::set_num_threads(allowed);
}

ThreadsGuard::~ThreadsGuard() {
  if (restore_threads_ > 0) at::set_num_threads(restore_threads_);
}

void TorchRuntime::parallel(int max_threads, ParallelBody body) {
  const int threads = max_threads > 1 ? std::min(max_threads, available_threads()) : 1;
  if (threads <= 1) {
    body(0, 1);
    return;
  }
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
  body(omp_get_thread_num(), omp_get_num_threads());
#else
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(static_cast<int>(i), threads);
  });
#endif
}

void TorchRuntime::gemm(DType dtype, Transpose trans_a, Transpose trans_b, int64_t m, int64_t n,
                        int64_t k, const void* a, int64_t lda, const void* b, int64_t ldb,
                        double beta, void* c, int64_t ldc) {
  if (m == 0 || n == 0) return;
  const at::Tensor left = matrix(dtype, trans_a, a, m, k, lda);
  const at::Tensor right = matrix(dtype, trans_b, b, k, n, ldb);
  at::Tensor product = matrix(dtype, Transpose::kNo, c, m, n, ldc);
  if (beta == 0) {
    at::cpu::mm_out(product, left, right);
  } else {
    at::cpu::addmm_(product, left, right, beta, 1);
  }
}

void* TorchRuntime::scratch(size_t bytes) { return scratch_.take(bytes); }

}  // namespace fusedrnn
