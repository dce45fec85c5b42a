#include "cpu/cpu_layer.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

namespace fusedrnn {

namespace {

SweepSteps make_steps(const LayerShape& shape, CpuRuntime& runtime) {
  SweepSteps steps{
      {nullptr, shape.seq_len, shape.batch_size, shape.direction}, shape.order, shape.padded_rows};
  if (shape.batch_sizes != nullptr) {
    auto* offsets = static_cast<int64_t*>(
        runtime.allocate(static_cast<size_t>(shape.seq_len + 1) * sizeof(int64_t)));
    offsets[0] = 0;
    for (int64_t t = 0; t < shape.seq_len; ++t) offsets[t + 1] = offsets[t] + shape.batch_sizes[t];
    steps.offsets = offsets;
  }
  return steps;
}

// The slots are aligned to pairs of cache lines.
TeamSlot* allocate_team(int num_threads, CpuRuntime& runtime) {
  constexpr uintptr_t kAlign = 128;
  static_assert(sizeof(TeamSlot) % kAlign == 0, "slots share no pair of lines");
  const auto piece = reinterpret_cast<uintptr_t>(
      runtime.allocate(static_cast<size_t>(num_threads) * sizeof(TeamSlot) + kAlign));
  return reinterpret_cast<TeamSlot*>((piece + kAlign - 1) / kAlign * kAlign);
}

}  // namespace

void rest_thread() {
#if defined(_WIN32)
  std::this_thread::yield();  // the shortest sleep is milliseconds
#else
  std::this_thread::sleep_for(std::chrono::microseconds(20));
#endif
}

CpuLayer::CpuLayer(const LayerShape& layer_shape, const Plan& layer_plan, const KernelTable& table,
                   CpuRuntime& layer_runtime)
    : shape(layer_shape),
      plan(layer_plan),
      cell(cell_info(layer_shape.cell)),
      dtype_kernels(table.dtypes[static_cast<int>(layer_shape.dtype)]),
      cell_kernels(*dtype_kernels.cells[static_cast<int>(layer_shape.cell)]),
      runtime(layer_runtime),
      steps(make_steps(layer_shape, layer_runtime)),
      accum_dtype(layer_shape.dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32),
      is_accum(layer_shape.dtype == accum_dtype),
      num_threads(std::max(plan.num_threads, 1)),
      gate_size(cell.gates * layer_shape.hidden_size),
      hidden_size(layer_shape.hidden_size),
      output_size(layer_shape.output_size()),
      chunk_steps(std::clamp<int64_t>(plan.chunk_steps, 1, std::max<int64_t>(shape.seq_len, 1))),
      chunk_max_rows(std::min(chunk_steps * shape.batch_size, shape.total_rows)),
      panel_element(shape.batch_size <= dtype_kernels.storage_panel_rows ? PanelElement::kStorage
                                                                         : PanelElement::kAccum) {
  if (!is_persistent()) return;
  team = allocate_team(num_threads, runtime);
}

void* CpuLayer::allocate_zeros(int64_t elements) {
  void* piece = allocate(elements);
  std::memset(piece, 0, static_cast<size_t>(elements * accum_bytes(shape.dtype)));
  return piece;
}

RowRange CpuLayer::chunk_rows(int64_t begin, int64_t end) const {
  const int64_t first = std::min(steps.row(begin), steps.row(end - 1));
  const int64_t last =
      std::max(steps.row(begin) + steps.rows(begin), steps.row(end - 1) + steps.rows(end - 1));
  return {first, last - first};
}

}  // namespace fusedrnn
