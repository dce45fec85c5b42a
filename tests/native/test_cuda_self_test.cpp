// The self-test of each family of kernels, in the simulator: it passes the kernels as they are,
// and finds those with a planted fault. A part of test_cuda_kernels there.
#include <cstring>

#include "check.h"
#include "cuda/schedules/launchers.cuh"
#include "cuda/self_test.h"
#include "cuda_layer_case.h"

using namespace fusedrnn;
using namespace oracle;

namespace {

constexpr CudaInfo kDevice{"a GPU", 90,    132,   232448, 233472, 60 << 20, 1.98,
                           4.8e12,  false, 65536, 16,     true,   true};
constexpr const char* kSchedules[] = {"per_step/product", "per_step/fused", "single_block"};

// The simulator's device memory is the host's.
class SimulatedRuntime : public RuntimeWithCopies {
 public:
  Status gemm(const GemmArgs& product) override { return runtime_.gemm(product); }
  void* allocate(size_t bytes) override { return runtime_.allocate(bytes); }
  void* stream() override { return runtime_.stream(); }
  Status to_device(void* device, const void* host, size_t bytes) override {
    std::memcpy(device, host, bytes);
    return {};
  }
  Status to_host(void* host, const void* device, size_t bytes) override {
    if (Status status = wait_for_device(); !status.ok) return status;
    std::memcpy(host, device, bytes);
    return {};
  }

 private:
  TestRuntime runtime_;
};

Status run_test(const KernelFamily& family, const CudaKernels& kernels) {
  begin_run();
  SimulatedRuntime runtime;
  const Status tested = test_family(family, kDevice, kernels, runtime);
  const Status finished = wait_for_device();  // before the runtime's memory goes
  return tested.ok ? finished : tested;
}

// A launcher that does what the right one does, then spoils one element of what it wrote.
Status (*right_step)(const ForwardStepArgs&, int, StepForm, Stream) = nullptr;
Status wrong_forward_step(const ForwardStepArgs& args, int directions, StepForm form, Stream on) {
  Status status = right_step(args, directions, form, on);
  if (status.ok) status = wait_for_device();
  const StepRows& step = args.step[0];
  if (step.idx == 1) static_cast<float*>(args.buffers[0].output)[step.row * 40 + 39] += 0.01f;
  return status;
}
Status refused_step(const BackwardStepArgs&, int, StepForm, Stream) {
  return Status::error("no such kernel");
}

// The barriers of a kernel but one.
template <int kRemoved>
struct BarriersBut {
  template <int kBarrier>
  static void wait() {
    if constexpr (kBarrier != kRemoved) sync_block();
  }
  static void wait_for_launch() { wait_for_launch_before(); }
};

}  // namespace

TEST(cuda_self_test_passes_every_family_as_it_is) {
  for (const CellInfo& info : kCells) {
    for (DType dtype : kAllDTypes) {
      for (const char* schedule : kSchedules) {
        for (Pass pass : {Pass::kForward, Pass::kBackward}) {
          const KernelFamily family{info.kind, dtype, pass, schedule, false};
          const Status status = run_test(family, cuda_kernels(info.kind, dtype));
          CHECK_THAT(status.ok, "%s", status.message);
        }
      }
    }
  }
}

TEST(cuda_self_test_finds_a_wrong_element_and_a_refused_launch) {
  CudaKernels kernels = cuda_kernels(kind_of<Gru>, DType::kFloat32);
  right_step = kernels.cell.forward_step;
  kernels.cell.forward_step = wrong_forward_step;
  kernels.cell.backward_step = refused_step;
  for (const char* schedule : {"per_step/product", "per_step/fused"}) {
    const KernelFamily forward{kind_of<Gru>, DType::kFloat32, Pass::kForward, schedule, false};
    const Status wrong = run_test(forward, kernels);
    CHECK_THAT(!wrong.ok && std::strstr(wrong.message, "forward: output[") != nullptr, "%s",
               wrong.message);
    const KernelFamily backward{kind_of<Gru>, DType::kFloat32, Pass::kBackward, schedule, false};
    const Status refused = run_test(backward, kernels);
    CHECK_THAT(std::strstr(refused.message, "backward: no such kernel") != nullptr, "%s",
               refused.message);
  }
}

// A fault that shows in some orders of threads only must be seen in most of them.
TEST(cuda_self_test_finds_barriers_that_are_missing) {
  CudaKernels kernels = cuda_kernels(kind_of<Lstm>, DType::kFloat32);
  kernels.cell = CellLaunchers<Lstm, float, BarriersBut<1>>::table();
  for (const char* schedule : {"per_step/fused", "single_block"}) {
    for (Pass pass : {Pass::kForward, Pass::kBackward}) {
      const KernelFamily family{kind_of<Lstm>, DType::kFloat32, pass, schedule, false};
      int seen = 0;
      for (int i = 0; i < 8; ++i) seen += run_test(family, kernels).ok ? 0 : 1;
      CHECK_THAT(seen > 4, "%s: seen by %d of 8 seeds", family.text().c_str(), seen);
    }
  }
}

TEST(a_family_is_tested_once_and_one_that_fails_is_told_once) {
  SelfTests tests;
  const KernelFamily good{kind_of<Lstm>, DType::kFloat32, Pass::kForward, "per_step/fused", false};
  KernelFamily bad = good;
  bad.pass = Pass::kBackward;
  int ran = 0;
  std::string told;
  const auto warn = [&](const std::string& text) { told += text + ";"; };
  const auto test = [&](Status result) {
    return [&ran, result]() -> std::optional<Status> {
      ++ran;
      return result;
    };
  };
  // Within a capture nothing can be tested.
  const auto captured = []() -> std::optional<Status> { return std::nullopt; };
  CHECK(tests.allow(bad, captured, warn) && tests.results().empty());
  for (int i = 0; i < 3; ++i) {
    CHECK(tests.allow(good, test({}), warn));
    CHECK(!tests.allow(bad, test(Status::error("it differs")), warn));
    CHECK(!tests.allow(bad, captured, warn));
  }
  CHECK(ran == 2 && told == "it differs;");
  const auto results = tests.results();
  CHECK(results.size() == 2);
  CHECK(results.at("lstm float32 per_step/fused forward") == "passed");
  CHECK(results.at("lstm float32 per_step/fused backward") == "it differs");
  KernelFamily tf32 = good;
  tf32.on_tensor_cores = true;
  CHECK(tests.allow(tf32, test({}), warn) && ran == 3);
}
