// The kernels of a layer, as the host drivers see them: plain arguments and launchers.
//
// S is the storage type, A its accumulation type, G gates, M params a unit, H hidden_size, P output
// size, B batch_size, N rows of the sequence, D directions, W the cell's saved_width. Chunk rows
// are those of the sweep steps at once in `gx` or `dgx`; row 0 of these buffers is `first_row`.
// Between two steps h and the gradients of the gates are rounded to S, as memory has them: a
// sequence gives the same numbers whether its steps share a kernel or not.
#pragma once

#include <cstdint>

#include "common/status.h"
#include "common/steps.h"
#include "common/types.h"
#include "cuda/device/launch_shape.h"
#include "plan/cuda_plan.h"

namespace fusedrnn {

constexpr int kMaxDirections = 2;

// The rows of a sweep step and of its neighbours in the sweep; no rows where there is none.
struct StepRows {
  int64_t idx;                      // of the sweep step
  int64_t row, rows;                // first row in the sequence, number of rows
  int64_t row_before, rows_before;  // rows from rows_before on start in this step
  int64_t row_after, rows_after;    // rows from rows_after on end in this step
  int64_t time, time_before, time_after;
};

FUSEDRNN_HD StepRows step_rows(const Steps& steps, int64_t s) {
  StepRows at{s,
              0,
              steps.rows(s),
              0,
              steps.rows(s - 1),
              0,
              steps.rows(s + 1),
              steps.time(s),
              steps.time(s - 1),
              steps.time(s + 1)};
  if (at.rows > 0) at.row = steps.row(s);
  if (at.rows_before > 0) at.row_before = steps.row(s - 1);
  if (at.rows_after > 0) at.row_after = steps.row(s + 1);
  return at;
}

struct LayerSizes {
  int64_t hidden_size;  // H
  int64_t output_size;  // P
  int64_t output_row_stride;
  int64_t grad_output_row_stride;
  int64_t batch_size;  // B
};

// What the kernels of forward are given for one direction.
struct ForwardBuffers {
  const void* weight_hh;   // S [G * H, P]
  const void* bias_ih;     // S [G * H], or null
  const void* bias_hh;     // S [G * H], or null
  const void* params;      // S [M * H], of cells with such
  const void* h_0;         // S [B, P], or null: zeros
  const void* c_0;         // S [B, H], or null: zeros
  const int64_t* lengths;  // [B], times from there on are padding; or null
  const uint8_t* reset;    // [N], not 0: reset_h and reset_c enter the row's step; or null
  const void* reset_h;     // S [B, P], or null: zeros
  const void* reset_c;     // S [B, H], or null: zeros
  const void* gx;          // A [chunk rows, G * H], input side of the gates without bias
  int64_t first_row;
  // A [B, G * H], h * weight_hh^T: of the step before, of h_0, of reset_h. Null for a null h.
  const void* product;
  const void* start_product;
  const void* reset_product;
  const void* c_before;     // A [B, H], c of the step before; c but where steps run again
  void* c;                  // A [B, H], c from one step to the next
  void* h_raw;              // S [B, H], h before the projection; null without
  void* output;             // S [N, P], rows output_row_stride apart; only read without h_n
  void* saved;              // S [N - saved_first_row, W, H], or null
  int64_t saved_first_row;  // the row of the sequence that `saved` begins with
  void* kept_c;             // A [.., B, H], c that enters every kept_steps-th step but 0, or null
  int64_t kept_steps;
  void* h_n;    // S [B, P], or null where the steps run again
  void* c_n;    // S [B, H], or null
  void* all_c;  // S [N, H], c of every step, or null
};

struct BackwardBuffers {
  const void* weight_hh;    // S [G * H, P]
  const void* params;       // S [M * H], of cells with such
  const void* h_0;          // S [B, P], or null: zeros
  const void* c_0;          // S [B, H], or null: zeros
  const int64_t* lengths;   // [B], or null
  const uint8_t* reset;     // [N], or null
  const void* reset_h;      // S [B, P], or null: zeros
  const void* reset_c;      // S [B, H], or null: zeros
  const void* output;       // S [N, P], rows output_row_stride apart
  const void* saved;        // S [N - saved_first_row, W, H]
  int64_t saved_first_row;  // the row of the sequence that `saved` begins with
  const void* grad_output;  // S [N, P], rows grad_output_row_stride apart, or null: zeros
  const void* grad_h_n;     // S [B, P], or null: zeros
  const void* grad_c_n;     // S [B, H], or null: zeros
  const void* grad_c;       // S [N, H], or null: zeros
  void* grad_h_0;           // S [B, P], or null
  void* grad_c_0;           // S [B, H], or null
  void* dreset_h;           // A [B, P], added to; or null
  void* dreset_c;           // A [B, H], added to; or null
  int64_t first_row;
  void* dgx;              // S [chunk rows, G * H], gradient of the input side
  void* dgr;              // S [chunk rows, G * H], of the recurrent side; dgx without kSplit
  void* dparams;          // S [chunk rows, M * H], or null
  const void* dgr_after;  // S, row 0 of dgr of the step after; of the last one of a sweep
  const void* product;    // A [B, P], dgr of the step after * weight_hh
  void* carry;            // A [B, H], part of dh that does not flow through dgr; null with dh
  void* dc;               // A [B, H]
  void* h_before;         // S [chunk rows, P], the h each row starts from, or null
  void* dh;               // S [chunk rows, P], gradient of projected h; null without projection
  const void* projected;  // A [B, H], dh * weight_hr
};

// How a fused step multiplies: by multiply-adds, or on tensor cores, which round float32 to TF32.
// 16-bit types always are on tensor cores, and float64 never is.
enum class StepMath : int16_t { kFma, kTensor };
// kAfterStep: the launch before is the step before of the same sweep, and this one may begin before
// it has ended.
enum class StepStart : int16_t { kAlone, kAfterStep };
struct FusedStep {
  StepMath math;
  StepStart start;
  int32_t row_tile;  // rows of a block on tensor cores, 16 or 32; 0: as few as hold all, or 32
};

// One sweep step of every direction, each of its own sweep. In backward, rows that the step after
// has but this one has not started there: they only deliver the gradient of the h they began with.
struct ForwardStepArgs {
  LayerSizes sizes;
  ForwardBuffers buffers[kMaxDirections];
  StepRows step[kMaxDirections];
  FusedStep fused;
};
struct BackwardStepArgs {
  LayerSizes sizes;
  BackwardBuffers buffers[kMaxDirections];
  StepRows step[kMaxDirections];
  FusedStep fused;
};

// Sweep steps [begin, end) of every direction; batch_size rows each.
struct ForwardSweepArgs {
  LayerSizes sizes;
  ForwardBuffers buffers[kMaxDirections];
  Steps steps[kMaxDirections];
  int64_t begin, end;
  int unit_threads;  // as in CudaPlan
};
struct BackwardSweepArgs {
  LayerSizes sizes;
  BackwardBuffers buffers[kMaxDirections];
  Steps steps[kMaxDirections];
  int64_t begin, end;
  int unit_threads;
};

// Which rows from `first_row` of the sequence on are padding.
struct Padding {
  const int64_t* lengths;  // [batch_size], or null: none
  int64_t batch_size;
  int64_t first_row;
};

// dst = src of [rows, cols], or zeros for a null src and in padding.
struct CopyArgs {
  const void* src;
  int64_t src_stride;
  void* dst;
  int64_t dst_stride;
  int64_t rows, cols;
  Padding padding;
};

// The kernel writes zeros into the padding of output, and h_n, for a projected layer with lengths.
struct EndRowsArgs {
  void* output;  // S [rows, cols], rows output_row_stride apart
  int64_t output_row_stride;
  const void* h_0;  // S [B, cols], or null: zeros
  void* h_n;        // S [B, cols]
  int64_t rows, cols;
  Steps steps;
  Padding padding;
};

// Column sums of up to kMaxSums matrices of one shape, in two kernels that add in a fixed order:
// partial[slice] [cols] += the sums of every kSumSlices-th row, then the sums of the slices.
constexpr int kMaxSums = 2 * kMaxDirections;
constexpr int kSumSlices = 64;
struct SumColumnsArgs {
  int64_t rows, cols;
  const void* src[kMaxSums];  // S [rows, cols]
  void* partial[kMaxSums];    // A [kSumSlices, cols]
  bool accumulate;            // else partial is overwritten
};
struct SumSlicesArgs {
  int64_t cols;
  const void* partial[kMaxSums];
  void* dst[kMaxSums];  // S [cols]
};

// dst = h before it is projected, from the values that forward saved; zeros in padding.
struct UnprojectedArgs {
  const void* saved;  // S [rows, W, H]
  void* dst;          // S [rows, H]
  int64_t rows;
  int64_t hidden_size;
  Padding padding;
};

// Launchers of one cell and storage type. Arrays are filled up to `directions`.
struct CudaCellKernels {
  // The cell, after a product or with it, and for backward without projection the gradient of h
  // before it.
  Status (*forward_step)(const ForwardStepArgs& args, int directions, StepForm form, Stream stream);
  Status (*backward_step)(const BackwardStepArgs& args, int directions, StepForm form,
                          Stream stream);
  Status (*forward_sweep)(const ForwardSweepArgs& args, int directions, const CudaPlan& plan,
                          Stream stream);
  Status (*backward_sweep)(const BackwardSweepArgs& args, int directions, const CudaPlan& plan,
                           Stream stream);
  // h before its projection; an error for cells that cannot be projected.
  Status (*unprojected)(const UnprojectedArgs& args, Stream stream);
};

// Launchers of one storage type.
struct CudaDTypeKernels {
  Status (*copy)(const CopyArgs& args, Stream stream);   // S to S
  Status (*store)(const CopyArgs& args, Stream stream);  // A to S
  Status (*sum_columns)(const SumColumnsArgs& args, int count, Stream stream);
  Status (*sum_slices)(const SumSlicesArgs& args, int count, Stream stream);
  Status (*end_rows)(const EndRowsArgs& args, Stream stream);
  // The gradient of projected h, before its product with weight_hr.
  Status (*backward_hidden)(const BackwardStepArgs& args, int directions, Stream stream);
};

struct CudaKernels {
  CudaCellKernels cell;
  CudaDTypeKernels dtype;
};

CudaKernels cuda_kernels(CellKind cell, DType dtype);

// cell.cu, which is compiled for each header of cells, has cell_kernels, and rows.cu the others.
template <template <class> class Cell>
CudaCellKernels cell_kernels(DType dtype);
CudaDTypeKernels dtype_kernels(DType dtype);

}  // namespace fusedrnn
