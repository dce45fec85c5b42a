// cell_kernels: the launchers of one cell and storage type. cell.cu includes them, and tests
// that plant faults.
#pragma once

#include <type_traits>

#include "cuda/schedules/per_step.cuh"
#include "cuda/schedules/single_block.cuh"
#include "cuda/schedules/unprojected.cuh"

namespace fusedrnn {

// Whether a fused step is on tensor cores.
template <class S>
bool is_on_tensor_cores(const FusedStep& fused) {
  return sizeof(S) == 2 || (sizeof(S) == 4 && fused.math == StepMath::kTensor);
}

// Whether all rows that a fused step multiplies begin at multiples of 16 bytes.
template <class S>
bool has_packets(const void* first_row, int64_t row_stride) {
  return reinterpret_cast<uintptr_t>(first_row) % sizeof(Packet<S>) == 0 &&
         row_stride % Packet<S>::kSize == 0;
}
template <class S>
bool has_packets(const ForwardStepArgs& args, int directions, int) {
  const LayerSizes& sizes = args.sizes;
  bool all = has_packets<S>(nullptr, sizes.output_row_stride);
  for (int d = 0; d < directions; ++d) {
    const ForwardBuffers& buffers = args.buffers[d];
    for (const void* rows : {buffers.weight_hh, buffers.h_0, buffers.reset_h,
                             static_cast<const void*>(buffers.output)}) {
      all = all && has_packets<S>(rows, sizes.output_size);
    }
  }
  return all;
}
// Of the weights, backward loads two units of a row.
template <class S>
bool has_packets(const BackwardStepArgs& args, int directions, int gates) {
  const int64_t hidden_size = args.sizes.hidden_size;
  bool all = hidden_size % 2 == 0;
  for (int d = 0; d < directions; ++d) {
    all = all && has_packets<S>(args.buffers[d].dgr_after, gates * hidden_size) &&
          has_packets<S>(args.buffers[d].weight_hh, 0);
  }
  return all;
}

template <template <class> class Cell, class S, class Barriers = BlockBarriers>
struct CellLaunchers {
  using A = accum_t<S>;
  static constexpr int kGates = Cell<A>::kGates;
  template <int kRowTiles, Loads kLoads>
  using ForwardTensor = TensorMatMul<S, kGates, WeightLayout::kUnitRows, kRowTiles, kLoads>;
  template <int kRowTiles, Loads kLoads>
  using BackwardTensor = TensorMatMul<S, 1, WeightLayout::kDepthRows, kRowTiles, kLoads>;

  static Status forward_step(const ForwardStepArgs& args, int directions, StepForm form,
                             Stream stream) {
    int64_t rows = 0;
    for (int d = 0; d < directions; ++d) rows = larger(rows, args.step[d].rows);
    if (form == StepForm::kProduct) {
      return launch_step<ForwardPerStep, ReadProduct>(args, rows, directions, stream);
    }
    if constexpr (std::is_same_v<S, A>) {
      if (!is_on_tensor_cores<S>(args.fused)) {
        using MatMul = TileMatMul<A, kGates, WeightLayout::kUnitRows>;
        return launch_step<ForwardPerStep, MatMul>(args, rows, directions, stream);
      }
    }
    return launch_tensor<ForwardPerStep, ForwardTensor>(args, rows, directions, stream);
  }
  static Status backward_step(const BackwardStepArgs& args, int directions, StepForm form,
                              Stream stream) {
    const int64_t rows = backward_rows(args, directions);
    if (form == StepForm::kProduct) {
      return launch_step<BackwardPerStep, ReadProduct>(args, rows, directions, stream);
    }
    if constexpr (std::is_same_v<S, A>) {
      if (!is_on_tensor_cores<S>(args.fused)) {
        using MatMul = TileMatMul<A, 1, WeightLayout::kDepthRows>;
        return launch_step<BackwardPerStep, MatMul>(args, rows, directions, stream);
      }
    }
    return launch_tensor<BackwardPerStep, BackwardTensor>(args, rows, directions, stream);
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

  template <template <template <class> class, class, class, class> class Kernel, class MatMul,
            class Args>
  static Status launch_step(const Args& args, int64_t rows, int directions, Stream stream) {
    LaunchShape shape = step_shape<MatMul>(rows, args.sizes.hidden_size, directions);
    shape.programmatic = kMultiplies<MatMul> && args.fused.start == StepStart::kAfterStep;
    return launch<Kernel<Cell, S, MatMul, Barriers>>(shape, args, stream);
  }

  template <template <template <class> class, class, class, class> class Kernel,
            template <int, Loads> class MatMul, class Args>
  static Status launch_tensor(const Args& args, int64_t rows, int directions, Stream stream) {
    if constexpr (std::is_same_v<S, double>) {
      return Status::error("per_step/fused: no tensor core multiplies float64 here");
    } else {
      if (!has_packets<S>(args, directions, kGates)) {
        using Elements = MatMul<1, Loads::kElements>;
        return launch_step<Kernel, Elements>(args, rows, directions, stream);
      }
      const int32_t tile = args.fused.row_tile;
      if (tile == kTensorRows || (tile == 0 && rows <= kTensorRows)) {
        using OneTile = MatMul<1, Loads::kPackets>;
        return launch_step<Kernel, OneTile>(args, rows, directions, stream);
      }
      if (tile != 0 && tile != 2 * kTensorRows) {
        return Status::error("per_step/fused: %d rows a block, expected %d or %d", tile,
                             kTensorRows, 2 * kTensorRows);
      }
      using TwoTiles = MatMul<2, Loads::kPackets>;
      return launch_step<Kernel, TwoTiles>(args, rows, directions, stream);
    }
  }

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
