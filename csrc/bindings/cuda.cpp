// The operators on CUDA: checks, buffers, the plan, and one call of the library for all
// directions. Compiled where CUDA kernels are built.
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <cuda_runtime_api.h>
#include <torch/library.h>

#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "bindings/checks.h"
#include "bindings/chosen_plan.h"
#include "bindings/composed.h"
#include "bindings/cuda_torch_runtime.h"
#include "bindings/layer_args.h"
#include "bindings/settings.h"
#include "cuda/cuda_library.h"
#include "cuda/self_test.h"

namespace fusedrnn {
namespace {

thread_local const char* last_plan = "";
thread_local bool last_launched_graph = false;

// Each device is asked once: a query takes longer than a layer.
CudaInfo device_info(c10::DeviceIndex device) {
  static std::mutex mutex;
  static std::map<c10::DeviceIndex, CudaInfo> known;
  const std::lock_guard<std::mutex> lock(mutex);
  auto found = known.find(device);
  if (found == known.end()) {
    CudaInfo info{};
    check_status(query_cuda(device, &info));
    found = known.emplace(device, info).first;
  }
  CudaInfo info = found->second;
  info.allow_tf32 = allows_tf32();
  return info;
}

CudaPlan make_checked_plan(const Problem& problem, Pass pass, const CudaInfo& info) {
  CudaPlan plan;
  const CudaForced forced{settings().schedule.c_str(), settings().cuda_graph.c_str()};
  check_status(make_cuda_plan(problem, pass, info, forced, &plan));
  return plan;
}

std::string plan_text(const Problem& problem, Pass pass, const CudaInfo& info,
                      const CudaPlan& plan) {
  std::string text(4096, '\0');
  text.resize(print_cuda_plan(problem, pass, info, plan, text.data(), text.size()));
  return text;
}

// A pass over a layer: what it is, where it runs and how.
struct PlannedPass {
  Problem problem;
  Pass pass;
  CudaInfo info;
  CudaPlan plan;
};
PlannedPass plan_pass(const CheckedLayer& layer, bool training, Pass pass) {
  const Problem problem = to_problem(layer, training);
  const CudaInfo info = device_info(layer.tensors[kInput]->device().index());
  return {problem, pass, info, make_checked_plan(problem, pass, info)};
}

// Whether the kernels of the pass may run here. Where no stored result of a GPU covers the device,
// each family is tested when it is used first, outside of captures, because that waits.
bool may_run(const CheckedLayer& layer, const PlannedPass& planned) {
  const std::string& wish = settings().cuda_selftest;
  TORCH_CHECK_VALUE(wish.empty() || wish == "0" || wish == "1",
                    "FUSEDRNN_CUDA_SELFTEST: expected 0 or 1, got '", wish, "'");
  const CudaInfo& info = planned.info;
  if (wish == "0" || (wish.empty() && has_stored_results(info.sm_arch))) return true;
  const c10::Device device = layer.tensors[kInput]->device();
  const c10::cuda::CUDAGuard guard(device);
  const Problem& problem = planned.problem;
  const KernelFamily family{problem.cell, problem.dtype, planned.pass, planned.plan.name,
                            planned.plan.on_tensor_cores};
  const auto test = [&]() -> std::optional<Status> {
    if (c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None) {
      return std::nullopt;
    }
    TorchCudaRuntime runtime(device);
    return test_family(family, info, cuda_kernels(problem.cell, problem.dtype), runtime);
  };
  const auto warn = [&](const std::string& found) {
    TORCH_WARN("fusedrnn: a self-test failed on ", info.name, " (compute capability ",
               info.sm_arch / 10, ".", info.sm_arch % 10, "): ", found,
               ". Such layers run as torch operators there, right and slowly. Please report this "
               "line with the output of: python -m fusedrnn.info");
  };
  return SelfTests::of_device(device.index()).allow(family, test, warn);
}

// Says that torch operators ran in the place of kernels.
void note_composed() {
  last_plan = "composition";
  last_launched_graph = false;
}

// Runs `call(plan, runtime)`, which enqueues the pass on the current stream of the device.
template <class Call>
void run_pass(const CheckedLayer& layer, const PlannedPass& planned, const Call& call) {
  const auto& [problem, pass, info, plan] = planned;
  const c10::Device device = layer.tensors[kInput]->device();
  const c10::cuda::CUDAGuard guard(device);
  TorchCudaRuntime runtime(device);
  const Status status = call(plan, runtime);
  last_plan = plan.name;
  last_launched_graph = runtime.launched_graph();
  if (status.ok) return;
  const int major = info.sm_arch / 10, minor = info.sm_arch % 10;
  TORCH_CHECK(
      std::strstr(status.message, cudaGetErrorString(cudaErrorNoKernelImageForDevice)) == nullptr,
      "device ", device, ": expected a compute capability of ", cuda_architectures(),
      ", which this build of fusedrnn has kernels for, got ", major, ".", minor, " (", info.name,
      "); rebuild with: TORCH_CUDA_ARCH_LIST=", major, ".", minor,
      " FUSEDRNN_CUDA=1 pip install --no-build-isolation --force-reinstall --no-deps .");
  TORCH_CHECK(false, status.message, "; the plan was\n", plan_text(problem, pass, info, plan));
}

ForwardResult layer_forward(const LayerGiven& given, const Keep& keep) {
  const CheckedLayer layer = check_layer(to_places(given), keep.recompute);
  if (layer.is_composed) return composed_forward(layer, keep);
  std::optional<PlannedPass> planned;
  if (layer.total_rows > 0) {
    planned = plan_pass(layer, keep.save, Pass::kForward);
    if (!may_run(layer, *planned)) {
      note_composed();
      ForwardResult result = composed_forward(layer, keep);
      // Of the same shape as from kernels; the composition's backward does not read it.
      if (keep.save) result.saved = empty_forward_result(layer, keep).saved.zero_();
      return result;
    }
  }
  ForwardResult result = empty_forward_result(layer, keep);
  const auto run = [&](const CudaPlan& plan, CudaRuntime& runtime) {
    std::array<LayerForwardArgs, 2> args{};
    for (int d = 0; d < layer.directions; ++d) args[d] = forward_args(layer, result, d);
    return layer_forward_cuda(args.data(), layer.directions, plan, runtime);
  };
  if (planned.has_value()) run_pass(layer, *planned, run);
  if (keep.save) keep_output(&result);
  return result;
}

LayerGrads layer_backward(const BackwardArgs& args) {
  const CheckedLayer layer =
      check_layer({&check_cell(args.cell), args.tensors, args.sequence, {}}, args.recompute);
  const CheckedGrads given = check_grads(layer, args);
  if (layer.is_composed) return composed_backward(layer, given, args.mask);
  if (layer.total_rows == 0) return empty_grads(layer, args.mask);
  // Backward reads what forward saved, and runs it again with recompute.
  const PlannedPass forward = plan_pass(layer, true, Pass::kForward);
  const PlannedPass backward = plan_pass(layer, true, Pass::kBackward);
  if (!may_run(layer, forward) || !may_run(layer, backward)) {
    note_composed();
    return composed_backward(layer, given, args.mask);
  }
  const LayerGrads result = empty_grads(layer, args.mask);
  const auto run = [&](const CudaPlan& plan, CudaRuntime& runtime) {
    std::array<LayerBackwardArgs, 2> directions{};
    for (int d = 0; d < layer.directions; ++d)
      directions[d] = backward_args(layer, given, result, d);
    return layer_backward_cuda(directions.data(), layer.directions, plan, forward.plan, runtime);
  };
  run_pass(layer, backward, run);
  return result;
}

std::vector<ExplainedPass> explain_layer_cuda(std::string_view cell, at::ScalarType dtype,
                                              int64_t seq_len, int64_t batch_size,
                                              int64_t input_size, int64_t hidden_size,
                                              int64_t proj_size, int64_t directions, bool training,
                                              bool packed, int64_t device_index) {
  const Problem problem = check_problem(cell, dtype, seq_len, batch_size, input_size, hidden_size,
                                        proj_size, directions, training, packed);
  const CudaInfo info = device_info(static_cast<c10::DeviceIndex>(device_index));
  std::vector<ExplainedPass> passes;
  for (Pass pass : {Pass::kForward, Pass::kBackward}) {
    if (pass == Pass::kBackward && !training) continue;
    const CudaPlan plan = make_checked_plan(problem, pass, info);
    passes.push_back(explain_pass(pass, plan, plan_text(problem, pass, info, plan)));
  }
  return passes;
}

}  // namespace

TORCH_LIBRARY_IMPL(fusedrnn, CUDA, m) {
  m.impl("layer_forward", TORCH_FN(forward_kernel<layer_forward>));
  m.impl("layer_backward", TORCH_FN(backward_kernel<layer_backward>));
}

TORCH_LIBRARY_IMPL(fusedrnn, CompositeExplicitAutograd, m) {
  m.impl("explain_layer_cuda", TORCH_FN(explain_layer_cuda));
  m.impl("cuda_architectures", [] { return std::string(cuda_architectures()); });
  m.impl("last_cuda_plan", [] { return std::string(last_plan); });
  m.impl("last_cuda_graph", [] { return last_launched_graph; });
  m.impl("cuda_self_tests", [](int64_t device) {
    std::vector<std::string> lines;
    for (const auto& [family, result] : SelfTests::of_device(static_cast<int>(device)).results()) {
      lines.push_back(family + ": " + result);
    }
    return lines;
  });
}

}  // namespace fusedrnn
