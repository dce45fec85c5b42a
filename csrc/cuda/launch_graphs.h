// Sequences of kernels as CUDA graphs, so that one launch takes the place of many.
//
// A sequence is recorded when it comes for the second time: layers that get other buffers in
// every call would pay for recording and gain nothing. What a graph runs is decided by its key, so
// that it never needs an update. At most kMaxKernels are kept, of the sequences that were used
// last.
//
// Graphs are built node by node. A stream capture of our own would be spoiled by a thread that
// waits for the device meanwhile. What cannot be recorded, or its graph launched, is launched
// kernel by kernel from then on.
#pragma once

#include <cstdint>
#include <list>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>

#include "common/status.h"
#include "cuda/cuda_layer_runtime.h"

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
  // captured the kernels become part of that graph. *at_once says whether it was one launch. Where
  // it must be recorded now and cannot be, that is an error.
  Status launch(const KernelSequence& sequence, void* stream, bool* at_once);

  // Gives back the memory of all graphs; whether there were any.
  bool release();
  static bool release_all();

 private:
  struct Entry {
    std::string key;
    int64_t kernels;
    void* graph;      // a cudaGraphExec_t, or null: seen once, or refused
    bool is_refused;  // it could not be recorded, or its graph not be launched
  };
  using Entries = std::list<Entry>;

  // The entry of the sequence, made if there is none, first in entries_.
  Entry& find(const KernelSequence& sequence, bool* is_known);
  void drop_oldest();
  static Status record(const KernelSequence& sequence, void** graph);
  static Status launch_graph(Entry* entry, void* stream);

  std::mutex mutex_;
  Entries entries_;  // the one used last is the first
  std::unordered_map<std::string_view, Entries::iterator> by_key_;
  int64_t kernels_ = 0;  // of all entries
};

}  // namespace fusedrnn
