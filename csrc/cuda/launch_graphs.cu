#include <cuda_runtime_api.h>

#include <map>

#include "cuda/launch_graphs.h"

namespace fusedrnn {

namespace {

// Making a graph, and freeing one, is refused while another thread captures one in the default
// mode, and spoils the other one.
class RelaxedCapture {
 public:
  RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

Status failed(const char* what, cudaError_t error) {
  cudaGetLastError();
  return Status::error("%s: %s; FUSEDRNN_CUDA_GRAPH=0 launches the steps one by one", what,
                       cudaGetErrorString(error));
}

// A stream that cannot be asked is left to the launches, which say what is wrong with it.
bool is_captured(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (cudaStreamIsCapturing(stream, &status) == cudaSuccess) {
    return status != cudaStreamCaptureStatusNone;
  }
  cudaGetLastError();
  return true;
}

// Adds kernels to a graph, each after the one before.
class GraphRecorder final : public KernelRecorder {
 public:
  explicit GraphRecorder(cudaGraph_t graph) : graph_(graph) {}

  Status record(const KernelLaunch& kernel) override {
    const cudaLaunchConfig_t& config = *kernel.config;
    cudaKernelNodeParams params = {};
    params.func = const_cast<void*>(kernel.entry);
    params.gridDim = config.gridDim;
    params.blockDim = config.blockDim;
    params.sharedMemBytes = static_cast<unsigned>(config.dynamicSmemBytes);
    params.kernelParams = kernel.arguments;
    cudaGraphNode_t node = nullptr;
    cudaError_t error = cudaGraphAddKernelNode(&node, graph_, nullptr, 0, &params);
    bool programmatic = false;
    for (unsigned i = 0; error == cudaSuccess && i < config.numAttrs; ++i) {
      const cudaLaunchAttribute& attribute = config.attrs[i];
      if (attribute.id == cudaLaunchAttributeProgrammaticStreamSerialization) {
        programmatic = attribute.val.programmaticStreamSerializationAllowed != 0;
      } else {
        error = cudaGraphKernelNodeSetAttribute(node, attribute.id, &attribute.val);
      }
    }
    if (error == cudaSuccess && last_ != nullptr) error = add_edge(node, programmatic);
    if (error != cudaSuccess) return failed("recording the steps", error);
    last_ = node;
    return {};
  }

 private:
  // With a programmatic edge the kernel may begin when all blocks of the last one have let it, or
  // have ended; it waits for that one's results itself.
  cudaError_t add_edge(cudaGraphNode_t node, bool programmatic) {
    cudaGraphEdgeData edge = {};
    if (programmatic) {
      edge.from_port = cudaGraphKernelNodePortProgrammatic;
      edge.type = cudaGraphDependencyTypeProgrammatic;
    }
#if CUDART_VERSION >= 13000
    return cudaGraphAddDependencies(graph_, &last_, &node, &edge, 1);
#else
    return cudaGraphAddDependencies_v2(graph_, &last_, &node, &edge, 1);
#endif
  }

  cudaGraph_t graph_;
  cudaGraphNode_t last_ = nullptr;
};

// They are never destroyed: at exit the driver may be gone before them.
struct AllGraphs {
  std::mutex mutex;
  std::map<int, LaunchGraphs> of_device;
};
AllGraphs& all_graphs() {
  static AllGraphs& all = *new AllGraphs;
  return all;
}

}  // namespace

LaunchGraphs::~LaunchGraphs() { release(); }

LaunchGraphs& LaunchGraphs::of_device(int device) {
  AllGraphs& all = all_graphs();
  const std::lock_guard<std::mutex> lock(all.mutex);
  return all.of_device[device];
}

Status LaunchGraphs::launch(const KernelSequence& sequence, void* stream, bool* at_once) {
  *at_once = false;
  if (sequence.kernels == 0 || is_captured(static_cast<cudaStream_t>(stream))) {
    return sequence.enqueue(Stream(stream));
  }
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    bool is_known = false;
    Entry& entry = find(sequence, &is_known);
    Status status;
    if (entry.graph == nullptr && (sequence.record_now || (is_known && !entry.is_refused))) {
      status = record(sequence, &entry.graph);
    }
    if (entry.graph != nullptr) {
      status = launch_graph(&entry, stream);
      *at_once = status.ok;
      if (status.ok) return status;
    }
    entry.is_refused = entry.is_refused || !status.ok;
    if (!status.ok && sequence.record_now) return status;
  }
  return sequence.enqueue(Stream(stream));
}

bool LaunchGraphs::release() {
  const std::lock_guard<std::mutex> lock(mutex_);
  bool had_any = false;
  for (const Entry& entry : entries_) had_any = had_any || entry.graph != nullptr;
  while (!entries_.empty()) drop_oldest();
  return had_any;
}

bool LaunchGraphs::release_all() {
  AllGraphs& all = all_graphs();
  const std::lock_guard<std::mutex> lock(all.mutex);
  bool had_any = false;
  for (auto& [device, graphs] : all.of_device) had_any = graphs.release() || had_any;
  return had_any;
}

LaunchGraphs::Entry& LaunchGraphs::find(const KernelSequence& sequence, bool* is_known) {
  if (const auto found = by_key_.find(sequence.key); found != by_key_.end()) {
    *is_known = true;
    entries_.splice(entries_.begin(), entries_, found->second);
    return entries_.front();
  }
  while (!entries_.empty() && kernels_ + sequence.kernels > kMaxKernels) drop_oldest();
  entries_.push_front({std::string(sequence.key), sequence.kernels, nullptr, false});
  by_key_.emplace(entries_.front().key, entries_.begin());
  kernels_ += sequence.kernels;
  return entries_.front();
}

void LaunchGraphs::drop_oldest() {
  const Entry& oldest = entries_.back();
  if (oldest.graph != nullptr) {
    // One that still runs is freed when it is done.
    const RelaxedCapture relaxed;
    cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(oldest.graph));
  }
  kernels_ -= oldest.kernels;
  by_key_.erase(oldest.key);
  entries_.pop_back();
}

Status LaunchGraphs::launch_graph(Entry* entry, void* stream) {
  const auto graph = static_cast<cudaGraphExec_t>(entry->graph);
  const cudaError_t error = cudaGraphLaunch(graph, static_cast<cudaStream_t>(stream));
  if (error == cudaSuccess) return {};
  const RelaxedCapture relaxed;
  cudaGraphExecDestroy(graph);
  entry->graph = nullptr;
  return failed("launching the graph of the steps", error);
}

Status LaunchGraphs::record(const KernelSequence& sequence, void** graph) {
  const RelaxedCapture relaxed;
  cudaGraph_t recorded = nullptr;
  cudaError_t error = cudaGraphCreate(&recorded, 0);
  if (error != cudaSuccess) return failed("recording the steps", error);
  GraphRecorder recorder(recorded);
  Status status = sequence.enqueue(Stream(&recorder));
  if (status.ok) {
    cudaGraphExec_t executable = nullptr;
    error = cudaGraphInstantiate(&executable, recorded, 0);
    if (error != cudaSuccess) status = failed("making a graph of the steps", error);
    if (error == cudaSuccess) *graph = executable;
  }
  cudaGraphDestroy(recorded);
  return status;
}

}  // namespace fusedrnn
