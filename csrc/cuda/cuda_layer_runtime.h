// What the CUDA kernels need from outside: large matrix products, memory, a stream.
// The bindings pass torch's; the native tests pass plain loops.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>

#include "common/status.h"
#include "common/types.h"
#include "cuda/device/stream.h"

namespace fusedrnn {

// c = op(a) * op(b) + beta * c, row-major, beta 0 or 1; with beta 0, c is not read.
// op(a) is [m, k], op(b) is [k, n], c is [m, n]; lda, ldb, ldc are the row strides in elements
// of a, b, c as stored. Sums are in the accumulation type of `in`. Any size may be 0.
struct GemmArgs {
  DType in;   // of a and b
  DType out;  // of c: `in` or its accumulation type
  Transpose trans_a, trans_b;
  int64_t m, n, k;
  const void* a;
  int64_t lda;
  const void* b;
  int64_t ldb;
  double beta;
  void* c;
  int64_t ldc;
};

// Kernels that follow each other. Those with an equal key are the same kernels with the same
// arguments.
struct KernelSequence {
  std::string_view key;
  int64_t kernels;  // how many
  bool record_now;  // as Recording::kAlways
  // Launches them, and does nothing else.
  std::function<Status(Stream)> enqueue;
};

class CudaRuntime {
 public:
  virtual ~CudaRuntime() = default;

  // Enqueues the product on stream().
  virtual Status gemm(const GemmArgs& product) = 0;

  // Device memory aligned to 256 bytes, uninitialised, that this stream may use until the
  // CudaRuntime is destroyed. Throws what the caller's allocator throws.
  virtual void* allocate(size_t bytes) = 0;

  // The cudaStream_t that everything is enqueued on, in order, on the current device.
  virtual void* stream() = 0;

  // Enqueues the kernels on stream(), in one launch where the runtime can.
  virtual Status launch_together(const KernelSequence& sequence) {
    return sequence.enqueue(stream());
  }
};

// A runtime that can also copy; both wait for the stream. Self-tests have one.
class RuntimeWithCopies : public CudaRuntime {
 public:
  virtual Status to_device(void* device, const void* host, size_t bytes) = 0;
  virtual Status to_host(void* host, const void* device, size_t bytes) = 0;
};

}  // namespace fusedrnn
