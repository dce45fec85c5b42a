// Sequences of kernels as CUDA graphs, so that one launch takes the place of many.
//
// A sequence is recorded when it comes for the second time: layers that get other buffers in
// every call would pay for recording and gain nothing. What a graph runs is decided by its key,
// the arguments of its kernels, so that it never needs an update. At most kMaxKernels are kept,
// of the sequences that were used last.
#pragma once

#include <cstdint>
#include <list>
#include <mutex>
#include <vector>

#include "common/status.h"
#include "cuda/cuda_layer_runtime.h"
#include "cuda/device/launch_shape.h"

namespace fusedrnn {

// The graphs of one device, which must be the current one in every call. Any number of threads may
// call.
class LaunchGraphs {
 public:
  static constexpr int64_t kMaxKernels = 65536;

  LaunchGraphs() = default;
  LaunchGraphs(const LaunchGraphs&) = delete;
  LaunchGraphs& operator=(const LaunchGraphs&) = delete;
  ~LaunchGraphs();

  // The graphs of a device; they live as long as the process.
  static LaunchGraphs& of_device(int device);

  // Enqueues the sequence on the stream, by a graph where it has one. On a stream that is being
  // captured the kernels become part of that graph. *at_once says whether it was one launch.
  Status launch(const KernelSequence& sequence, Stream stream, bool* at_once);

 private:
  struct Entry {
    const void* launcher;
    int directions;
    int64_t kernels;
    std::vector<char> args;
    void* graph;  // a cudaGraphExec_t, or null: seen once
  };

  // The entry of the sequence, made if there is none, first in entries_.
  Entry& find(const KernelSequence& sequence, bool* is_known);
  void drop_oldest();
  Status record(const KernelSequence& sequence, void** graph);

  std::mutex mutex_;
  std::list<Entry> entries_;   // the one used last is the first
  int64_t kernels_ = 0;        // of all entries
  Stream recorder_ = nullptr;  // nothing runs on it
};

}  // namespace fusedrnn
