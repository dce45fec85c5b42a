// The rate of float32 multiply-adds that stay in registers: the roof of every matrix product,
// whichever library multiplies.
//
// A thread keeps independent chains x <- x * factor + term, as many as hide the latency of a
// multiply-add and fit the registers, in the widest vectors that the compiler was told of.

#include <cstdint>

#include "together.h"

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kChains = 24;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32, kChains = 12;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16, kChains = 24;
#else
constexpr int kVectorBytes = 16, kChains = 12;
#endif
constexpr int kLanes = kVectorBytes / sizeof(float);
constexpr int64_t kLinks = 1 << 14;  // of every chain, between looks at the clock

using Vector __attribute__((vector_size(kVectorBytes))) = float;

double run_thread(double seconds, Start& start) {
  // The compiler does not know these values; with them a chain stays near 1.
  volatile float given_factor = 0.5F, given_term = 0.5F;
  const Vector zero = {};
  const Vector factor = zero + given_factor, term = zero + given_term;
  Vector chain[kChains];
  for (int j = 0; j < kChains; ++j) chain[j] = zero + static_cast<float>(j);
  start.wait();
  const double rate = calls_per_second(seconds, [&] {
    Vector x[kChains];
#pragma GCC unroll 24
    for (int j = 0; j < kChains; ++j) x[j] = chain[j];
    for (int64_t i = 0; i < kLinks; ++i) {
#pragma GCC unroll 24
      for (int j = 0; j < kChains; ++j) x[j] = x[j] * factor + term;
    }
#pragma GCC unroll 24
    for (int j = 0; j < kChains; ++j) chain[j] = x[j];
  });
  Vector sum = zero;
  for (const Vector& x : chain) sum += x;
  volatile float sink = sum[0];
  (void)sink;
  return rate * static_cast<double>(2 * kLanes * kChains * kLinks) * 1e-9;
}

}  // namespace

// GFLOP/s of all threads together, a multiply-add counted as two.
extern "C" double multiply_add_gflops(int threads, double seconds) {
  return sum_of_rates(threads, [=](Start& start) { return run_thread(seconds, start); });
}
