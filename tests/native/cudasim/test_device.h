// What the tests of a layer's kernels run on: the simulator, on the host's memory. Each run is
// under the next scheduling seed. gpu/test_device.h is its twin.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "common/status.h"
#include "cuda/cuda_layer_runtime.h"
#include "cuda/device/launch_shape.h"
#include "layer_oracle.h"
#include "scheduler.h"
#include "seeds.h"

namespace oracle {

// A buffer as the device sees it, and as the host does when the device is done.
class DeviceBuffer : public Buffer {
 public:
  using Buffer::Buffer;
  explicit DeviceBuffer(Buffer host) : Buffer(std::move(host)) {}
  const Buffer& fetch() const { return *this; }
};

// Whether the device can be used at all.
inline Status open_device() { return {}; }
inline std::string device_text() { return "in the simulator"; }
inline int64_t max_smem_bytes() { return kMaxSmemBytes; }

// Whether memory that nothing has written is NaN.
inline bool poisons_memory() { return true; }

// In how many orders of threads a case runs.
inline int num_repeats() {
  static const int repeats = cudasim::num_seeds(4);
  return repeats;
}

// Says which run it is.
inline std::string begin_run() {
  static uint64_t seed = 0;
  cudasim::set_seed(++seed);
  return "seed " + std::to_string(seed);
}
// Whether everything enqueued so far ended well.
inline Status wait_for_device() { return cudasim::finish(); }

inline void* device_stream() { return nullptr; }

template <class In, class Out>
Status enqueue_product(const GemmArgs& p) {
  if (Status status = cudasim::finish(); !status.ok) return status;
  multiply<In, Out>(p.trans_a, p.trans_b, p.m, p.n, p.k, p.a, p.lda, p.b, p.ldb, p.beta, p.c,
                    p.ldc);
  return {};
}

}  // namespace oracle
