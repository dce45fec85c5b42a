// Steps that are launched together; long because the stand-in for CUDA is here as well: what the
// drivers hand over, and launch_graphs.cu on a stand-in for CUDA. No kernel runs. A stream keeps
// what was enqueued on it, with the bytes of its arguments; a layer must leave the same there
// whether its steps were recorded or not.
#include <cstring>
#include <string>
#include <vector>

#include "cells/registry.h"
#include "check.h"
#include "cuda/cuda_layer.h"
#include "cuda/launch_graphs.h"
#include "cuda_runtime_api.h"

using namespace fusedrnn;

// What was enqueued on a stream of the stand-in.
using Work = std::vector<std::string>;
struct FakeStream {
  bool is_captured = false;
  Work done, captured;
};
struct FakeNode {
  std::string work;
  unsigned cluster = 1;
  FakeNode* before = nullptr;
};
struct FakeGraph {
  std::vector<FakeNode*> nodes;
};
struct FakeExecutable {
  Work work;
};

namespace {

struct FakeCuda {
  const char* failing = "";  // the function that returns an error
  int failing_after = 0;     // so many calls of it
  bool mode_is_relaxed = false;
  int graphs = 0, executables = 0;  // alive
  int instantiated = 0, launched = 0, programmatic_edges = 0, clusters = 0;
  bool has_error = false;

  cudaError_t answer(const char* function) {
    if (std::strcmp(failing, function) != 0 || failing_after-- > 0) return cudaSuccess;
    has_error = true;
    return cudaErrorMemoryAllocation;
  }
} fake;

// Enqueues a kernel of a layer, or anything else that a stream does, as launch.cuh does.
Status enqueue(Stream stream, const std::string& work, bool programmatic = false) {
  if (stream.recorder != nullptr) {
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim.x = 2;
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = programmatic;
    cudaLaunchConfig_t config = {};
    config.attrs = attributes;
    config.numAttrs = 2;
    void* arguments[] = {const_cast<std::string*>(&work)};
    return stream.recorder->record({"a kernel", &config, arguments, "a kernel"});
  }
  FakeStream& on = *static_cast<FakeStream*>(stream.handle);
  (on.is_captured ? on.captured : on.done).push_back(work);
  return {};
}

template <class Args>
std::string bytes_of(const char* what, const Args& args) {
  return what + std::string(reinterpret_cast<const char*>(&args), sizeof(args));
}

}  // namespace

cudaError_t cudaGetLastError() {
  fake.has_error = false;
  return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t) { return "out of memory"; }
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  const bool wanted = *mode == cudaStreamCaptureModeRelaxed;
  *mode = fake.mode_is_relaxed ? cudaStreamCaptureModeRelaxed : cudaStreamCaptureModeGlobal;
  fake.mode_is_relaxed = wanted;
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = stream->is_captured ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return fake.answer("cudaStreamIsCapturing");
}
cudaError_t cudaGraphCreate(cudaGraph_t* graph, unsigned flags) {
  CHECK(flags == 0 && fake.mode_is_relaxed);
  const cudaError_t error = fake.answer("cudaGraphCreate");
  if (error != cudaSuccess) return error;
  *graph = new FakeGraph;
  ++fake.graphs;
  return error;
}
cudaError_t cudaGraphAddKernelNode(cudaGraphNode_t* node, cudaGraph_t graph,
                                   const cudaGraphNode_t* dependencies, size_t count,
                                   const cudaKernelNodeParams* params) {
  CHECK(dependencies == nullptr && count == 0);
  const cudaError_t error = fake.answer("cudaGraphAddKernelNode");
  if (error != cudaSuccess) return error;
  *node = new FakeNode;
  (*node)->work = *static_cast<std::string*>(params->kernelParams[0]);
  graph->nodes.push_back(*node);
  return error;
}
cudaError_t cudaGraphKernelNodeSetAttribute(cudaGraphNode_t node, cudaLaunchAttributeID id,
                                            const cudaLaunchAttributeValue* value) {
  CHECK(id == cudaLaunchAttributeClusterDimension);
  const cudaError_t error = fake.answer("cudaGraphKernelNodeSetAttribute");
  if (error == cudaSuccess) node->cluster = value->clusterDim.x;
  return error;
}
cudaError_t cudaGraphAddDependencies(cudaGraph_t, const cudaGraphNode_t* from,
                                     const cudaGraphNode_t* to, const cudaGraphEdgeData* edges,
                                     size_t count) {
  CHECK(count == 1 && (*to)->before == nullptr);
  const cudaError_t error = fake.answer("cudaGraphAddDependencies");
  if (error != cudaSuccess) return error;
  (*to)->before = *from;
  const bool programmatic = edges->type == cudaGraphDependencyTypeProgrammatic;
  CHECK(edges->from_port == (programmatic ? cudaGraphKernelNodePortProgrammatic : 0));
  fake.programmatic_edges += programmatic;
  return error;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long flags) {
  CHECK(flags == 0 && fake.mode_is_relaxed);
  const cudaError_t error = fake.answer("cudaGraphInstantiate");
  if (error != cudaSuccess) return error;
  // A chain: no kernel of it may run beside another one.
  Work work;
  FakeNode* last = nullptr;
  for (FakeNode* node : graph->nodes) {
    CHECK(node->before == last && node->cluster == 2);
    work.push_back(node->work);
    last = node;
  }
  *executable = new FakeExecutable{work};
  ++fake.executables;
  ++fake.instantiated;
  return error;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  CHECK(!stream->is_captured);
  const cudaError_t error = fake.answer("cudaGraphLaunch");
  if (error != cudaSuccess) return error;
  stream->done.insert(stream->done.end(), executable->work.begin(), executable->work.end());
  ++fake.launched;
  return error;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  CHECK(fake.mode_is_relaxed);
  --fake.executables;
  delete executable;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  for (FakeNode* node : graph->nodes) delete node;
  delete graph;
  --fake.graphs;
  return cudaSuccess;
}

namespace fusedrnn {

// Nobody asks for these: run_forward and run_backward are given kernels.
CudaKernels cuda_kernels(CellKind, DType) { return {}; }

}  // namespace fusedrnn

namespace {

constexpr const char* kRefused = "the kernel was refused";

// Kernels that only say that they were launched.
template <class Args>
Status launch_step(const Args& args, int directions, StepForm form, Stream stream) {
  return enqueue(
      stream,
      bytes_of("step", args) + std::to_string(directions) + std::to_string(static_cast<int>(form)),
      args.fused.start == StepStart::kAfterStep);
}
CudaKernels fake_kernels() {
  CudaKernels kernels{};
  kernels.cell.forward_step = launch_step<ForwardStepArgs>;
  kernels.cell.backward_step = launch_step<BackwardStepArgs>;
  kernels.dtype.copy = [](const CopyArgs& args, Stream stream) {
    enqueue(stream, bytes_of("copy", args));
    return Status{};
  };
  kernels.dtype.store = [](const CopyArgs& args, Stream stream) {
    enqueue(stream, bytes_of("store", args));
    return Status{};
  };
  kernels.dtype.sum_columns = [](const SumColumnsArgs&, int, Stream stream) {
    enqueue(stream, "sum_columns");
    return Status{};
  };
  kernels.dtype.sum_slices = [](const SumSlicesArgs&, int, Stream stream) {
    enqueue(stream, "sum_slices");
    return Status{};
  };
  return kernels;
}

// Memory that nothing reads or writes, at addresses that are the same in every run.
void* address(int64_t idx) { return reinterpret_cast<void*>(idx << 32); }

class FakeRuntime : public CudaRuntime {
 public:
  FakeRuntime(FakeStream* stream, LaunchGraphs* graphs) : stream_(stream), graphs_(graphs) {}

  Status gemm(const GemmArgs& product) override {
    CHECK(!is_together_);
    enqueue(stream_,
            bytes_of("product", product.a) + bytes_of("", product.b) + bytes_of("", product.c));
    return {};
  }
  void* allocate(size_t) override {
    CHECK(!is_together_);
    return address(100 + pieces_++);
  }
  void* stream() override { return stream_; }
  Status launch_together(const KernelSequence& sequence) override {
    ++sequences;
    const auto enqueue_kernels = [&](Stream on) {
      is_together_ = true;
      const Status status = sequence.enqueue(on);
      is_together_ = false;
      return status;
    };
    KernelSequence watched = sequence;
    watched.enqueue = enqueue_kernels;
    bool at_once = false;
    const Status status = graphs_->launch(watched, stream_, &at_once);
    graph_launches += at_once;
    return status;
  }

  int sequences = 0, graph_launches = 0;

 private:
  FakeStream* stream_;
  LaunchGraphs* graphs_;
  bool is_together_ = false;
  int64_t pieces_ = 0;
};

struct Layer {
  CellKind cell = kind_of<Lstm>;
  DType dtype = DType::kFloat32;
  int directions = 1;
  bool packed = false, has_grad_h_0 = true, programmatic = false;
  int64_t seq_len = 7, chunk_steps = 7;
  int64_t input = 1;  // its address

  std::vector<int64_t> batch_sizes() const {
    std::vector<int64_t> sizes;
    for (int64_t t = 0; packed && t < seq_len; ++t) sizes.push_back(t < 3 ? 3 : 2);
    return sizes;
  }
  LayerShape shape(const std::vector<int64_t>& sizes, int d) const {
    int64_t rows = packed ? 0 : 3 * seq_len;
    for (int64_t size : sizes) rows += size;
    LayerShape shape{};
    shape.cell = cell;
    shape.dtype = dtype;
    shape.direction = d == 0 ? Direction::kForward : Direction::kReverse;
    shape.seq_len = seq_len;
    shape.batch_size = 3;
    shape.total_rows = rows;
    shape.input_size = 5;
    shape.hidden_size = 40;
    shape.batch_sizes = packed ? sizes.data() : nullptr;
    return shape;
  }
  CudaPlan plan(Recording recording) const {
    CudaPlan plan{};
    plan.schedule = Schedule::kPerStep;
    plan.form = StepForm::kFused;
    plan.chunk_steps = chunk_steps;
    plan.recording = recording;
    plan.programmatic = programmatic;
    return plan;
  }

  Status run(Pass pass, Recording recording, CudaRuntime& runtime) const {
    const std::vector<int64_t> sizes = batch_sizes();
    int64_t next = 1 + input;
    const auto buffer = [&] { return address(next++); };
    const bool has_c = cell_info(cell).states > 1, has_params = cell_info(cell).params > 0;
    const auto c_buffer = [&] { return has_c ? buffer() : nullptr; };
    const auto params_buffer = [&] { return has_params ? buffer() : nullptr; };
    LayerForwardArgs forward[2]{};
    LayerBackwardArgs backward[2]{};
    for (int d = 0; d < directions; ++d) {
      LayerForwardArgs& f = forward[d];
      f.shape = shape(sizes, d);
      f.weights = {buffer(), buffer(), buffer(), buffer(), nullptr, params_buffer()};
      f.input = address(input);
      f.h_0 = buffer();
      f.c_0 = c_buffer();
      f.output = buffer();
      f.output_row_stride = 40;
      f.h_n = buffer();
      f.c_n = c_buffer();
      f.saved = buffer();

      LayerBackwardArgs& b = backward[d];
      b.shape = f.shape;
      b.weights = f.weights;
      b.input = f.input;
      b.h_0 = f.h_0;
      b.c_0 = f.c_0;
      b.output = f.output;
      b.output_row_stride = f.output_row_stride;
      b.saved = f.saved;
      b.grad_output = buffer();
      b.grad_output_row_stride = 40;
      b.grad_h_n = buffer();
      b.grad_c_n = c_buffer();
      b.grad_input = address(input + 100);
      b.accumulate_grad_input = d > 0;
      b.grad_h_0 = has_grad_h_0 ? buffer() : nullptr;
      b.grad_weight_ih = buffer();
      b.grad_weight_hh = buffer();
      b.grad_bias_ih = buffer();
      b.grad_bias_hh = buffer();
      b.grad_params = params_buffer();
    }
    const CudaPlan chosen = plan(recording);
    if (pass == Pass::kForward) {
      return run_forward(forward, directions, chosen, fake_kernels(), runtime);
    }
    return run_backward(backward, directions, chosen, chosen, fake_kernels(), runtime);
  }
};

// What a pass leaves on its stream.
Work work_of(const Layer& layer, Pass pass, Recording recording, LaunchGraphs* graphs,
             int expected_launches) {
  FakeStream stream;
  FakeRuntime runtime(&stream, graphs);
  const Status status = layer.run(pass, recording, runtime);
  CHECK_THAT(status.ok, "%s", status.message);
  CHECK_THAT(runtime.graph_launches == expected_launches, "%d graphs launched, expected %d",
             runtime.graph_launches, expected_launches);
  return stream.done;
}

template <class Body>
void for_each_layer(const Body& body) {
  for (const CellInfo& info : kCells) {
    for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      for (int bits = 0; bits < 16; ++bits) {
        Layer layer;
        layer.cell = info.kind;
        layer.dtype = dtype;
        layer.directions = 1 + (bits & 1);
        layer.packed = bits & 2;
        layer.has_grad_h_0 = bits & 4;
        layer.chunk_steps = bits & 8 ? 3 : 7;
        layer.programmatic = layer.directions == 2;
        for (Pass pass : {Pass::kForward, Pass::kBackward}) body(layer, pass);
      }
    }
  }
}

KernelSequence sequence_of(const char* key, int64_t kernels, bool record_now = true) {
  return {key, kernels, record_now, [key](Stream stream) {
            Status status = enqueue(stream, key);
            return status.ok ? enqueue(stream, "the second") : status;
          }};
}
const Work kBoth = {"kernels", "the second"};

}  // namespace

TEST(a_recorded_layer_enqueues_what_a_plain_one_does) {
  for_each_layer([](const Layer& layer, Pass pass) {
    LaunchGraphs graphs;
    const Work plain = work_of(layer, pass, Recording::kNever, &graphs, 0);
    const int chunks = layer.chunk_steps == layer.seq_len ? 1 : 3;
    // The first pass is seen, the second recorded and launched, the third found and launched.
    CHECK(work_of(layer, pass, Recording::kWhenRepeated, &graphs, 0) == plain);
    const int instantiated = fake.instantiated;
    CHECK(work_of(layer, pass, Recording::kWhenRepeated, &graphs, chunks) == plain);
    CHECK(fake.instantiated == instantiated + chunks);
    CHECK(work_of(layer, pass, Recording::kWhenRepeated, &graphs, chunks) == plain);
    CHECK(fake.instantiated == instantiated + chunks);
    LaunchGraphs others;
    CHECK(work_of(layer, pass, Recording::kAlways, &others, chunks) == plain);
    CHECK(fake.graphs == 0 && !fake.mode_is_relaxed);
  });
}

TEST(a_graph_is_never_launched_for_other_buffers_or_rows) {
  LaunchGraphs graphs;
  std::vector<Layer> layers;
  for_each_layer([&](const Layer& layer, Pass pass) {
    if (pass == Pass::kForward) layers.push_back(layer);
  });
  for (int64_t input : {20, 40}) {
    Layer moved;
    moved.input = input;
    layers.push_back(moved);
  }
  // Every layer among all others, each time with what a plain one does.
  for (int round = 0; round < 3; ++round) {
    for (const Layer& layer : layers) {
      for (Pass pass : {Pass::kForward, Pass::kBackward}) {
        FakeStream plain_stream, stream;
        FakeRuntime plain(&plain_stream, &graphs), recorded(&stream, &graphs);
        CHECK(layer.run(pass, Recording::kNever, plain).ok);
        CHECK(layer.run(pass, Recording::kWhenRepeated, recorded).ok);
        CHECK(stream.done == plain_stream.done);
        CHECK(round == 0 || recorded.graph_launches == recorded.sequences);
      }
    }
  }
}

TEST(on_a_stream_that_is_captured_nothing_is_recorded) {
  LaunchGraphs graphs;
  FakeStream stream;
  stream.is_captured = true;
  const int instantiated = fake.instantiated, launched = fake.launched;
  for (int i = 0; i < 3; ++i) {
    bool at_once = true;
    CHECK(graphs.launch(sequence_of("kernels", 2), &stream, &at_once).ok && !at_once);
  }
  CHECK(stream.captured.size() == 6 && stream.done.empty());
  CHECK(fake.instantiated == instantiated && fake.launched == launched);
}

TEST(the_number_of_recorded_kernels_is_bounded) {
  LaunchGraphs graphs;
  FakeStream stream;
  bool at_once = false;
  constexpr int64_t kKernels = LaunchGraphs::kMaxKernels / 4;
  const auto launch = [&](const char* args) {
    CHECK(graphs.launch(sequence_of(args, kKernels), &stream, &at_once).ok && at_once);
    return fake.instantiated;
  };
  for (const char* args : {"a", "b", "c", "d"}) launch(args);
  CHECK(fake.executables == 4);
  const int instantiated = launch("a");  // again: b is the oldest now
  launch("e");
  CHECK(fake.executables == 4);
  CHECK(launch("a") == instantiated + 1);
  CHECK(launch("b") == instantiated + 2);
}

constexpr const char* kRecording[] = {
    "cudaGraphCreate",          "cudaGraphAddKernelNode", "cudaGraphKernelNodeSetAttribute",
    "cudaGraphAddDependencies", "cudaGraphInstantiate",   "cudaGraphLaunch"};

TEST(what_cannot_be_recorded_is_launched_step_by_step_and_never_tried_again) {
  for (const char* function : kRecording) {
    for (int after : {0, 1}) {
      LaunchGraphs graphs;
      FakeStream stream;
      bool at_once = true;
      const auto launch = [&](const char* key) {
        stream.done.clear();
        const Status status = graphs.launch(sequence_of(key, 2, false), &stream, &at_once);
        CHECK_THAT(status.ok, "%s: %s", function, status.message);
        CHECK(stream.done == (Work{key, "the second"}));
        CHECK(!fake.has_error && !fake.mode_is_relaxed && fake.graphs == 0);
        return at_once;
      };
      CHECK(!launch("kernels"));
      // A node's second call is in the same recording, that of other functions in another one.
      const bool is_of_node = std::strncmp(function, "cudaGraphAddK", 13) == 0 ||
                              std::strncmp(function, "cudaGraphK", 10) == 0;
      fake.failing = function;
      fake.failing_after = is_of_node ? after : 0;
      CHECK(!launch("kernels"));
      CHECK(fake.executables == 0);
      fake.failing = "";
      const int instantiated = fake.instantiated;
      CHECK(!launch("kernels"));
      CHECK(fake.instantiated == instantiated);
      // Others are.
      CHECK(!launch("others") && launch("others"));
    }
  }
}

TEST(a_recording_that_is_forced_and_fails_is_an_error_and_the_next_call_works) {
  for (const char* function : kRecording) {
    LaunchGraphs graphs;
    FakeStream stream;
    bool at_once = false;
    fake.failing = function;
    fake.failing_after = 0;
    const Status status = graphs.launch(sequence_of("kernels", 2), &stream, &at_once);
    fake.failing = "";
    CHECK_THAT(!status.ok, "%s failed", function);
    for (const char* part : {"the steps", ": out of memory; ", "FUSEDRNN_CUDA_GRAPH=0"}) {
      CHECK_THAT(std::strstr(status.message, part) != nullptr, "%s", status.message);
    }
    CHECK(stream.done.empty() && !fake.has_error && !fake.mode_is_relaxed && fake.graphs == 0);
    CHECK(graphs.launch(sequence_of("kernels", 2), &stream, &at_once).ok && at_once);
    CHECK(stream.done == kBoth);
  }
}

TEST(a_kernel_that_is_refused_gives_its_own_error) {
  for (bool record_now : {false, true}) {
    LaunchGraphs graphs;
    FakeStream stream;
    bool at_once = false;
    KernelSequence sequence = sequence_of("kernels", 2, record_now);
    sequence.enqueue = [](Stream) { return Status::error("%s", kRefused); };
    for (int i = 0; i < 3; ++i) {
      const Status status = graphs.launch(sequence, &stream, &at_once);
      CHECK(!status.ok && std::strcmp(status.message, kRefused) == 0);
    }
    CHECK(fake.graphs == 0 && fake.executables == 0);
    CHECK(graphs.launch(sequence_of("kernels of others", 2), &stream, &at_once).ok && at_once);
  }
}

TEST(a_stream_that_cannot_be_asked_is_launched_on) {
  LaunchGraphs graphs;
  FakeStream stream;
  bool at_once = true;
  fake.failing = "cudaStreamIsCapturing";
  fake.failing_after = 0;
  CHECK(graphs.launch(sequence_of("kernels", 2), &stream, &at_once).ok && !at_once);
  fake.failing = "";
  CHECK(stream.done == kBoth && !fake.has_error);
}

TEST(steps_are_linked_by_programmatic_edges_where_the_plan_says_so) {
  for (bool programmatic : {false, true}) {
    for (Pass pass : {Pass::kForward, Pass::kBackward}) {
      Layer layer;
      layer.programmatic = programmatic;
      LaunchGraphs graphs;
      fake.programmatic_edges = 0;
      work_of(layer, pass, Recording::kAlways, &graphs, 1);
      // All steps but the first; backward has one more for h_0.
      const int64_t edges = layer.seq_len - (pass == Pass::kForward ? 1 : 0);
      CHECK(fake.programmatic_edges == (programmatic ? edges : 0));
    }
  }
}

TEST(a_key_does_not_grow_with_the_steps) {
  size_t bytes[2] = {};
  struct KeyRuntime : FakeRuntime {
    using FakeRuntime::FakeRuntime;
    Status launch_together(const KernelSequence& sequence) override {
      key = sequence.key.size();
      return {};
    }
    size_t key = 0;
  };
  for (int i : {0, 1}) {
    Layer layer;
    layer.seq_len = layer.chunk_steps = i == 0 ? 7 : 700;
    LaunchGraphs graphs;
    FakeStream stream;
    KeyRuntime runtime(&stream, &graphs);
    CHECK(layer.run(Pass::kForward, Recording::kAlways, runtime).ok);
    bytes[i] = runtime.key;
  }
  CHECK_THAT(bytes[0] == bytes[1] && bytes[0] < 600, "%zu and %zu bytes", bytes[0], bytes[1]);
}

TEST(memory_is_given_back_when_it_is_asked_for) {
  LaunchGraphs& graphs = LaunchGraphs::of_device(3);
  FakeStream stream;
  bool at_once = false;
  CHECK(!LaunchGraphs::release_all());
  CHECK(graphs.launch(sequence_of("kernels", 2), &stream, &at_once).ok && at_once);
  CHECK(fake.executables == 1);
  CHECK(LaunchGraphs::release_all());
  CHECK(fake.executables == 0 && !fake.mode_is_relaxed);
  CHECK(!LaunchGraphs::release_all());
  // It is recorded anew when it comes again.
  CHECK(graphs.launch(sequence_of("kernels", 2), &stream, &at_once).ok && at_once);
  CHECK(LaunchGraphs::release_all() && fake.executables == 0);
}

TEST(each_device_has_its_own_graphs) {
  CHECK(&LaunchGraphs::of_device(0) == &LaunchGraphs::of_device(0));
  CHECK(&LaunchGraphs::of_device(0) != &LaunchGraphs::of_device(1));
}

TEST(nothing_is_left_behind) {
  {
    LaunchGraphs graphs;
    FakeStream stream;
    bool at_once = false;
    CHECK(graphs.launch(sequence_of("kernels", 2), &stream, &at_once).ok && at_once);
    CHECK(fake.executables == 1);
  }
  CHECK(fake.graphs == 0 && fake.executables == 0);
}

CHECK_MAIN()
