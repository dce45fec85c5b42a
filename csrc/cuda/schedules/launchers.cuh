// cell_kernels: the launchers of one cell and storage type. cell.cu includes them, and tests
// that plant faults.
#pragma once

#include "cuda/schedules/per_step.cuh"
#include "cuda/schedules/single_block.cuh"
#include "cuda/schedules/unprojected.cuh"

namespace fusedrnn {

template <template <class> class Cell, class S, class Barriers = BlockBarriers>
struct CellLaunchers {
  template <StepForm kForm>
  static Status forward_form(const ForwardStepArgs& args, int directions, Stream stream) {
    using Kernel = ForwardPerStep<Cell, S, kForm, Barriers>;
    int64_t rows = 0;
    for (int d = 0; d < directions; ++d) rows = larger(rows, args.step[d].rows);
    LaunchShape shape = step_shape(rows, args.sizes.hidden_size, directions);
    shape.smem_bytes = Kernel::kSmemBytes;
    return launch<Kernel>(shape, args, stream);
  }
  static Status forward_step(const ForwardStepArgs& args, int directions, StepForm form,
                             Stream stream) {
    return form == StepForm::kFused ? forward_form<StepForm::kFused>(args, directions, stream)
                                    : forward_form<StepForm::kProduct>(args, directions, stream);
  }

  template <StepForm kForm>
  static Status backward_form(const BackwardStepArgs& args, int directions, Stream stream) {
    using Kernel = BackwardPerStep<Cell, S, kForm, Barriers>;
    LaunchShape shape =
        step_shape(backward_rows(args, directions), args.sizes.hidden_size, directions);
    shape.smem_bytes = Kernel::kSmemBytes;
    return launch<Kernel>(shape, args, stream);
  }
  static Status backward_step(const BackwardStepArgs& args, int directions, StepForm form,
                              Stream stream) {
    return form == StepForm::kFused ? backward_form<StepForm::kFused>(args, directions, stream)
                                    : backward_form<StepForm::kProduct>(args, directions, stream);
  }

  static Status forward_sweep(const ForwardSweepArgs& args, int directions, const CudaPlan& plan,
                              Stream stream) {
    return launch_rows<ForwardSingleBlock>(args, directions, plan, stream);
  }
  static Status backward_sweep(const BackwardSweepArgs& args, int directions, const CudaPlan& plan,
                               Stream stream) {
    return launch_rows<BackwardSingleBlock>(args, directions, plan, stream);
  }

  static Status unprojected(const UnprojectedArgs& args, Stream stream) {
    if constexpr (Cell<float>::kProjects) {
      return launch<Unprojected<Cell, S>>(flat_shape(args.rows * args.hidden_size), args, stream);
    } else {
      return Status::error("%s: the cell has no projection", Cell<float>::kName);
    }
  }

  static constexpr CudaCellKernels table() {
    return {forward_step, backward_step, forward_sweep, backward_sweep, unprojected};
  }

 private:
  static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

  template <template <template <class> class, class, int, class> class Kernel, class Args>
  static Status launch_rows(const Args& args, int directions, const CudaPlan& plan, Stream stream) {
    LaunchShape shape;
    shape.grid_x = (args.steps[0].batch_size + plan.batch_tile - 1) / plan.batch_tile;
    shape.grid_z = directions;
    shape.threads = plan.threads;
    shape.smem_bytes = plan.smem_bytes;
    if (plan.thread_rows == 1) return launch<Kernel<Cell, S, 1, Barriers>>(shape, args, stream);
    if (plan.thread_rows == 2) return launch<Kernel<Cell, S, 2, Barriers>>(shape, args, stream);
    constexpr int kMost = static_cast<int>(16 / sizeof(accum_t<S>));  // as max_thread_rows
    if (kMost > 2 && plan.thread_rows == kMost) {
      return launch<Kernel<Cell, S, kMost, Barriers>>(shape, args, stream);
    }
    return Status::error("single_block: %d rows a thread, expected 1, 2 or %d", plan.thread_rows,
                         kMost);
  }
};

template <template <class> class Cell, class S>
CudaCellKernels cell_kernels() {
  return CellLaunchers<Cell, S>::table();
}

}  // namespace fusedrnn
