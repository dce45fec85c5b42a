// What the tests of a layer's kernels run on: the current GPU, with explicit copies, on one
// stream. Its twin is cudasim/test_device.h.
//
// Memory that nothing has written is NaN, so that whoever reads it gets a wrong result; with
// FUSEDRNN_POISON=0 it is left as it comes, for initcheck.
#pragma once

#include <cstdint>
#include <string>

#include "common/status.h"
#include "cuda/cuda_layer_runtime.h"
#include "layer_oracle.h"

namespace oracle {

// A buffer in an allocation of its own, so that memcheck sees each access beyond it. What CUDA
// refuses ends the program: after an error in a kernel it would refuse everything.
class DeviceBuffer {
 public:
  DeviceBuffer(DType dtype, int64_t count);
  DeviceBuffer(DType dtype, const Doubles& values) : DeviceBuffer(Buffer(dtype, values)) {}
  explicit DeviceBuffer(Buffer host);
  DeviceBuffer(DeviceBuffer&& other) noexcept;
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept;
  ~DeviceBuffer();

  void* data() { return data_; }
  int64_t size() const { return count_; }
  // The contents when the device is done.
  Buffer fetch() const;

 private:
  size_t bytes() const { return static_cast<size_t>(count_ * dtype_bytes(dtype_)); }

  DType dtype_;
  int64_t count_;
  void* data_ = nullptr;
};

// Whether the device can be used at all.
Status open_device();
std::string device_text();
int64_t max_smem_bytes();

// Whether memory that nothing has written is NaN.
bool poisons_memory();

// In how many orders of threads a case runs: those that the GPU happens to choose.
inline int num_repeats() { return 4; }

// Says which run it is.
std::string begin_run();
// Whether everything enqueued so far ended well.
Status wait_for_device();

void* device_stream();

// product.cu has it for the types of a layer's products.
template <class In, class Out>
Status enqueue_product(const GemmArgs& product);

}  // namespace oracle
