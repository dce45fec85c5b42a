// What the drivers of forward and backward share: sizes, rows of chunks, products, copies.
// Everything is enqueued; the first error is kept, and nothing is enqueued after it.
#pragma once

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "cells/registry.h"
#include "common/args.h"
#include "common/steps.h"
#include "cuda/cuda_kernel_table.h"
#include "cuda/cuda_layer_runtime.h"
#include "plan/cuda_plan.h"

namespace fusedrnn {

// A matrix in device memory, row-major.
struct Matrix {
  const void* data;
  int64_t row_stride;  // elements
};

// layer_forward_cuda and layer_backward_cuda with other kernels than those of cuda_kernel_table.h.
Status run_forward(const LayerForwardArgs* args, int directions, const CudaPlan& plan,
                   const CudaKernels& kernels, CudaRuntime& runtime);
Status run_backward(const LayerBackwardArgs* args, int directions, const CudaPlan& plan,
                    const CudaPlan& forward_plan, const CudaKernels& kernels, CudaRuntime& runtime);

// What decides the arguments of a sequence of kernels, as bytes.
class SequenceKey {
 public:
  template <class T>
  void add(const T& value) {
    static_assert(std::has_unique_object_representations_v<T>, "equal values have equal bytes");
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  // The rows of the sweep steps [begin, end) and of their neighbours.
  void add_steps(const Steps& steps, int64_t begin, int64_t end) {
    const bool is_packed = steps.offsets != nullptr;
    for (int64_t value : {begin, end, steps.seq_len, steps.batch_size, int64_t{is_packed}}) {
      add(value);
    }
    add(steps.direction);
    if (!is_packed) return;
    add(steps.row(begin < 0 ? 0 : begin));
    for (int64_t s = begin - 1; s <= end; ++s) add(steps.rows(s));
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

class CudaLayer {
 public:
  // shapes[d] is of direction d; they differ in direction only.
  CudaLayer(const LayerShape* const* shapes, int num_directions, const CudaPlan& layer_plan,
            const CudaKernels& layer_kernels, CudaRuntime& layer_runtime);

  // Elements of S and of A, from a base pointer and an offset in elements; null stays null.
  const void* storage(const void* base, int64_t offset) const {
    return base == nullptr ? base : static_cast<const char*>(base) + offset * storage_bytes_;
  }
  void* storage(void* base, int64_t offset) const {
    return const_cast<void*>(storage(static_cast<const void*>(base), offset));
  }
  const void* accum(const void* base, int64_t offset) const {
    return base == nullptr ? base : static_cast<const char*>(base) + offset * accum_bytes_;
  }
  // Uninitialised scratch memory for so many elements.
  void* allocate_storage(int64_t elements) { return allocate(elements * storage_bytes_); }
  void* allocate_accum(int64_t elements) { return allocate(elements * accum_bytes_); }

  // c = op(a) * op(b) + beta * c of S, where c is S or A.
  void multiply(DType out, Transpose trans_a, Transpose trans_b, int64_t m, int64_t n, int64_t k,
                Matrix a, Matrix b, double beta, void* c, int64_t c_row_stride);
  // dst = src, of S; or zeros for a null src and in padding.
  void copy(Matrix src, void* dst, int64_t dst_stride, int64_t rows, int64_t cols,
            const Padding& padding = {});
  // The padding among the rows from `first_row` of the sequence on.
  Padding padding(int64_t first_row) const { return {shape.lengths, shape.batch_size, first_row}; }

  // Writes zeros into so many elements of A.
  void zero_accum(void* dst, int64_t elements);

  // Keeps the status of a launch.
  void note(const Status& launched) {
    if (status.ok) status = launched;
  }

  // Launches the kernels of so many steps of per_step/fused, one after the other; args_of(i) is
  // given to the i-th. What decides those arguments is in the key.
  template <class Args, class ArgsOf>
  void launch_together(Status (*launch_step)(const Args&, int, StepForm, Stream), SequenceKey key,
                       int64_t kernels, const ArgsOf& args_of) {
    if (!status.ok) return;
    FusedStep fused{plan.on_tensor_cores ? StepMath::kTensor : StepMath::kFma, StepStart::kAlone,
                    plan.row_tile};
    key.add(reinterpret_cast<const void*>(launch_step));
    key.add(shape.cell);
    key.add(dtype);
    key.add(int64_t{directions});
    key.add(kernels);
    key.add(fused);
    key.add(int64_t{plan.programmatic});
    const auto enqueue = [&](Stream on) {
      Status launched;
      for (int64_t i = 0; launched.ok && i < kernels; ++i) {
        Args args = args_of(i);
        args.fused = fused;
        if (plan.programmatic && i > 0) args.fused.start = StepStart::kAfterStep;
        launched = launch_step(args, directions, StepForm::kFused, on);
      }
      return launched;
    };
    if (plan.recording == Recording::kNever) {
      note(enqueue(stream));
    } else {
      note(runtime.launch_together(
          {key.bytes(), kernels, plan.recording == Recording::kAlways, enqueue}));
    }
  }

  // Rows of the sweep steps [begin, end) of a direction.
  RowRange chunk_rows(int direction, int64_t begin, int64_t end) const;

  bool is_single_block() const { return plan.schedule == Schedule::kSingleBlock; }
  // Whether a step is one kernel.
  bool is_fused() const { return !is_single_block() && plan.form == StepForm::kFused; }
  // Whether a step's product is the runtime's.
  bool has_step_product() const { return !is_single_block() && !is_fused(); }

  Status status;
  const LayerShape& shape;  // of direction 0
  const int directions;
  const CudaPlan& plan;
  const CudaKernels& kernels;
  CudaRuntime& runtime;
  const Stream stream;
  const CellInfo& cell;
  Steps steps[kMaxDirections];
  const DType dtype;        // S
  const DType accum_dtype;  // A
  const int64_t gate_size;  // G * H
  const int64_t hidden_size, output_size;
  const int64_t chunk_steps;
  const int64_t chunk_max_rows;

 private:
  void* allocate(int64_t bytes) { return runtime.allocate(static_cast<size_t>(bytes)); }

  const int64_t storage_bytes_, accum_bytes_;
  std::vector<int64_t> offsets_;  // of Steps
};

}  // namespace fusedrnn
