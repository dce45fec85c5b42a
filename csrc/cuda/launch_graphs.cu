#include <cuda_runtime_api.h>

#include <cstring>
#include <map>

#include "cuda/launch_graphs.h"

namespace fusedrnn {

namespace {

// Recording allocates. In the default mode that is refused while another thread captures a graph,
// and spoils the other one.
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

}  // namespace

LaunchGraphs::~LaunchGraphs() {
  while (!entries_.empty()) drop_oldest();
  if (recorder_ != nullptr) cudaStreamDestroy(static_cast<cudaStream_t>(recorder_));
}

LaunchGraphs& LaunchGraphs::of_device(int device) {
  // They are never destroyed: at exit the driver may be gone before them.
  static std::mutex& mutex = *new std::mutex;
  static auto& graphs = *new std::map<int, LaunchGraphs>;
  const std::lock_guard<std::mutex> lock(mutex);
  return graphs[device];
}

Status LaunchGraphs::launch(const KernelSequence& sequence, Stream stream, bool* at_once) {
  *at_once = false;
  const auto on = static_cast<cudaStream_t>(stream);
  if (sequence.kernels == 0 || is_captured(on)) return sequence.enqueue(stream);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    bool is_known = false;
    Entry& entry = find(sequence, &is_known);
    if (entry.graph == nullptr && (is_known || sequence.record_now)) {
      if (Status status = record(sequence, &entry.graph); !status.ok) return status;
    }
    if (entry.graph != nullptr) {
      *at_once = true;
      const cudaError_t error = cudaGraphLaunch(static_cast<cudaGraphExec_t>(entry.graph), on);
      return error == cudaSuccess ? Status{} : failed("launching the graph of the steps", error);
    }
  }
  return sequence.enqueue(stream);
}

LaunchGraphs::Entry& LaunchGraphs::find(const KernelSequence& sequence, bool* is_known) {
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
    if (entry->launcher != sequence.launcher || entry->directions != sequence.directions ||
        entry->args.size() != sequence.args_bytes ||
        std::memcmp(entry->args.data(), sequence.args, sequence.args_bytes) != 0) {
      continue;
    }
    *is_known = true;
    entries_.splice(entries_.begin(), entries_, entry);
    return *entry;
  }
  while (!entries_.empty() && kernels_ + sequence.kernels > kMaxKernels) drop_oldest();
  const auto* args = static_cast<const char*>(sequence.args);
  entries_.push_front({sequence.launcher, sequence.directions, sequence.kernels,
                       std::vector<char>(args, args + sequence.args_bytes), nullptr});
  kernels_ += sequence.kernels;
  return entries_.front();
}

void LaunchGraphs::drop_oldest() {
  const Entry& oldest = entries_.back();
  // One that still runs is freed when it is done.
  if (oldest.graph != nullptr) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(oldest.graph));
  kernels_ -= oldest.kernels;
  entries_.pop_back();
}

Status LaunchGraphs::record(const KernelSequence& sequence, void** graph) {
  const RelaxedCapture relaxed;
  cudaError_t error = cudaSuccess;
  if (recorder_ == nullptr) {
    // The kernels are recorded on a stream of our own: the caller's may be the default one, which
    // cannot be captured, and one of torch's pool may get other work from another thread. Nor does
    // it wait for the default one.
    cudaStream_t created = nullptr;
    error = cudaStreamCreateWithFlags(&created, cudaStreamNonBlocking);
    if (error != cudaSuccess) return failed("creating a stream to record the steps", error);
    recorder_ = created;
  }
  const auto recorder = static_cast<cudaStream_t>(recorder_);
  error = cudaStreamBeginCapture(recorder, cudaStreamCaptureModeRelaxed);
  if (error != cudaSuccess) return failed("recording the steps", error);
  const Status enqueued = sequence.enqueue(recorder_);
  cudaGraph_t recorded = nullptr;
  error = cudaStreamEndCapture(recorder, &recorded);
  Status status = enqueued;
  if (status.ok && error != cudaSuccess) status = failed("recording the steps", error);
  if (error != cudaSuccess) cudaGetLastError();
  if (status.ok) {
    cudaGraphExec_t executable = nullptr;
    error = cudaGraphInstantiate(&executable, recorded, 0);
    if (error != cudaSuccess) status = failed("making a graph of the steps", error);
    if (error == cudaSuccess) *graph = executable;
  }
  if (recorded != nullptr) cudaGraphDestroy(recorded);
  return status;
}

}  // namespace fusedrnn
