// A user's first call on a GPU that no stored result covers cannot be wrong in silence: the first
// use of each family of kernels is compared once, on a small problem of its own, with the cell's
// mathematics in float64 on the host.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "common/status.h"
#include "cuda/cuda_kernel_table.h"
#include "cuda/cuda_layer_runtime.h"
#include "plan/cuda_plan.h"

namespace fusedrnn {

// The kernels that one pass of a cell, storage type and schedule runs.
struct KernelFamily {
  CellKind cell;
  DType dtype;
  Pass pass;
  const char* schedule;  // as CudaPlan::name
  bool on_tensor_cores;  // as in CudaPlan

  // Such as "lstm bfloat16 per_step/fused backward".
  std::string text() const;
};

// Runs the family's kernels on a small problem; an error says what differs, or what was refused.
Status test_family(const KernelFamily& family, const CudaInfo& device, const CudaKernels& kernels,
                   RuntimeWithCopies& runtime);

// Whether results on a GPU of this architecture are stored with the project, under bench/results.
// There are none yet.
constexpr bool has_stored_results(int /*sm_arch*/) { return false; }

// Which families of a device may run. Any number of threads may ask.
class SelfTests {
 public:
  // The tests of a device; they live as long as the process.
  static SelfTests& of_device(int device);

  // Whether the family may run, as the test shows, which is asked until it has a result; without
  // one the family may run. `warn` is told once of a family that failed.
  bool allow(const KernelFamily& family, const std::function<std::optional<Status>()>& test,
             const std::function<void(const std::string&)>& warn);

  // A line a tested family: its text, "passed" or what it failed with.
  std::map<std::string, std::string> results();

 private:
  std::mutex mutex_;
  std::map<std::string, Status> tested_;
};

}  // namespace fusedrnn
