#include "bindings/cpu_torch_runtime.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/addmm_cpu_dispatch.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm_cpu_dispatch.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <system_error>
#include <thread>
#include <vector>

#include "cpu/cpu_library.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#ifndef _WIN32
#include <pthread.h>
#endif

#if defined(_OPENMP) && defined(__ELF__)
// MKL's number of threads for the calling thread, which it goes by once torch has set one for all;
// null where torch has no MKL.
extern "C" __attribute__((weak)) int MKL_Set_Num_Threads_Local(int threads);
#endif

namespace fusedrnn {
namespace {

// Whether this process was forked, after this library was loaded, from one that may have had a pool
// of OpenMP threads, which it then lacks.
bool is_forked = false;
// In a forked process, how many threads the call that runs on this thread may have; 0 between
// calls.
thread_local int threads_of_call = 0;

#ifndef _WIN32
const int fork_handler = pthread_atfork(nullptr, nullptr, [] { is_forked = true; });
#endif

// Sets the calling thread's number of threads; returns what it was before.
int set_openmp_threads(int threads) {
#ifdef _OPENMP
  const int before = omp_get_max_threads();
  omp_set_num_threads(threads);
  return before;
#else
  return threads;
#endif
}
int set_mkl_threads(int threads) {
#if defined(_OPENMP) && defined(__ELF__)
  if (MKL_Set_Num_Threads_Local != nullptr) return MKL_Set_Num_Threads_Local(threads);
#endif
  return 0;
}

// Runs body on as many threads of this call's own, all at the same time.
void run_on_own_threads(int threads, ParallelBody body) {
  std::atomic<int> count{0};  // 0: not all threads have been made
  std::vector<std::thread> others;
  const auto run = [&](int thread_idx) {
    while (count.load(std::memory_order_acquire) == 0) std::this_thread::yield();
    set_openmp_threads(1);
    set_mkl_threads(1);
    body(thread_idx, count.load(std::memory_order_relaxed));
  };
  try {
    while (static_cast<int>(others.size()) + 1 < threads) {
      others.emplace_back(run, static_cast<int>(others.size()) + 1);
    }
  } catch (const std::system_error&) {  // the system gives no more
  }
  const int made = static_cast<int>(others.size()) + 1;
  count.store(made, std::memory_order_release);
  body(0, made);
  for (std::thread& other : others) other.join();
}

// The stored matrix at `data` with row stride ld, seen as op of it.
at::Tensor matrix(DType dtype, Transpose transpose, const void* data, int64_t rows, int64_t cols,
                  int64_t ld) {
  const auto options =
      at::TensorOptions().dtype(dtype == DType::kFloat64 ? at::kDouble : at::kFloat);
  const bool plain = transpose == Transpose::kNo;
  return at::from_blob(const_cast<void*>(data), {rows, cols},
                       plain ? at::IntArrayRef{ld, 1} : at::IntArrayRef{1, ld}, options);
}

// The cores of the calling thread's affinity, which asks the system; or all of them, where OpenMP
// itself has bound each thread.
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
  if (threads_of_call > 0) return threads_of_call;
#ifdef _OPENMP
  if (omp_in_parallel()) return 1;
#endif
  const int threads = at::get_num_threads();
  if (threads == 1 || at::in_parallel_region()) return 1;
  return std::min(threads, available_cores());
}

ThreadsGuard::ThreadsGuard() {
  const int threads = at::get_num_threads();
  if (threads == 1) return;
  const int available = available_threads();
  if (is_forked) threads_of_call = available;
  const int allowed = is_forked ? 1 : available;
  if (allowed >= threads) return;
  restore_openmp_ = set_openmp_threads(allowed);
  restore_mkl_ = set_mkl_threads(allowed);
}

ThreadsGuard::~ThreadsGuard() {
  threads_of_call = 0;
  if (restore_openmp_ == 0) return;
  set_openmp_threads(restore_openmp_);
  set_mkl_threads(restore_mkl_);
}

void TorchCpuRuntime::parallel(int max_threads, ParallelBody body) {
  const int threads = max_threads > 1 ? std::min(max_threads, available_threads()) : 1;
  if (threads <= 1) {
    body(0, 1);
    return;
  }
  if (is_forked) {
    run_on_own_threads(threads, body);
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

void TorchCpuRuntime::gemm(DType dtype, Transpose trans_a, Transpose trans_b, int64_t m, int64_t n,
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

// MKL on another processor than Intel's splits its sums by the number of threads; of other
// libraries nothing is known.
bool TorchCpuRuntime::repeats_gemm() const {
  static const bool repeats = at::hasMKL() && has_intel_cpu();
  return repeats;
}

void* TorchCpuRuntime::allocate(size_t bytes) { return scratch_.allocate(bytes); }

}  // namespace fusedrnn
