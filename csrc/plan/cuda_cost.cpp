// The time model of CUDA schedules: seconds of a pass over all directions of a layer.
//
// A step of the recurrence costs its kernels' launches, or, where the sequence is one kernel, a
// barrier of its blocks, and the larger part of the instructions that its kernel issues, of its
// arithmetic and of its weight traffic. Instructions are those of the machine code
// (cuda_kernel_costs.h). What is not recurrent is the same for all schedules.
//
// Nothing here was measured: the rates are those of the makers' tables, the latencies and shares
// are assumptions. They rank schedules until a GPU has given figures.
#include "cells/registry.h"
#include "plan/arithmetic.h"
#include "plan/cuda_kernel_costs.h"
#include "plan/cuda_plan.h"

namespace fusedrnn {

namespace {

// Multiply-adds a clock of one SM, by architecture: plain float32 and float64, and products of
// float16, bfloat16 and tf32 matrices (0: there are none).
struct SmRates {
  int from_arch;
  double fp32, fp64, fp16, bf16, tf32;
};
constexpr SmRates kSmRates[] = {
    {70, 64, 32, 512, 0, 0},          {75, 64, 2, 512, 0, 0},
    {80, 64, 64, 1024, 1024, 512},    {86, 128, 2, 512, 512, 128},
    {87, 128, 2, 512, 512, 128},      {89, 128, 2, 512, 512, 128},
    {90, 128, 128, 2048, 2048, 1024}, {100, 128, 64, 4096, 4096, 2048},
    {120, 128, 2, 512, 512, 128},
};

// Host and device seconds between two kernels of one stream, and what a product of torch's takes
// beyond that.
constexpr double kKernelSeconds = 2.5e-6;
constexpr double kProductCallSeconds = 5e-6;
// The same between two kernels of a recorded graph, and for its launch: finding it again, and the
// call. Recording is left out: a training or inference loop gets the same buffers again and again
// from torch's allocator.
constexpr double kGraphKernelSeconds = 1.3e-6;
constexpr double kGraphLaunchSeconds = 15e-6;
// Share of the rates that large products and small ones reach.
constexpr double kLargeProductShare = 0.7;
// A product's block computes so many rows and columns: fewer blocks than SMs leave some idle.
constexpr double kProductTile = 64;
// Bytes a clock that an SM reads from L2 and from its shared memory.
constexpr double kL2BytesPerClock = 48;
constexpr double kSmemBytesPerClock = 128;
// Share of L2 that is left for weights.
constexpr double kUsableL2 = 0.7;
// Warp instructions that an SM issues a clock; with fewer than kBusyWarps warps for each of its
// schedulers some wait for their operands.
constexpr double kIssuedPerClock = 4;
constexpr double kBusyWarps = 1.5;
// Clocks of an iteration of the fused product besides its instructions: its barriers, and what is
// left of the latency of its loads; on tensor cores there are no barriers.
constexpr double kTileClocks = 150;
// The share of the rate of tensor cores that a fused step reaches at best, which loads operands
// from L2 into registers. Assumed until measured.
constexpr double kFusedTensorShare = 0.3;
// Clocks of a step besides its instructions, within a kernel and as a kernel of its own: barriers,
// the latency of what it loads and stores.
constexpr double kStepClocks = 300;
constexpr double kKernelClocks = 700;
// Registers of a thread of single_block.
constexpr int kSingleBlockRegisters = 65536 / kSingleBlockMaxThreads;
// Of a device that does not tell.
constexpr double kUnknownClock = 1.5e9;
constexpr double kUnknownBandwidth = 0.3e12;
// Below compute capability 8.0 tensor cores have no bfloat16, and shuffles make up for it.
constexpr double kEmulatedInstructions = 8;
constexpr double kWarpSize = 32;
constexpr int64_t kReservedSmemBytes = 1024;  // that a block takes besides what it asks for
constexpr int64_t kThreadsOfSm = 1024;        // no fewer on any architecture

const SmRates& rates_of(int sm_arch) {
  const SmRates* found = &kSmRates[0];
  for (const SmRates& rates : kSmRates) {
    if (rates.from_arch <= sm_arch) found = &rates;
  }
  return *found;
}

double larger(double a, double b) { return a > b ? a : b; }
double at_least_one(double value) { return larger(value, 1); }

// The kernel's row in the table, of as many gates as there is one with; null where it has none.
const KernelCost* find_cost(KernelForm form, Pass pass, const Problem& problem, int rows) {
  const int gates = cell_info(problem.cell).gates;
  const int storage = static_cast<int>(dtype_bytes(problem.dtype));
  const KernelCost* found = nullptr;
  for (const KernelCost& cost : kKernelCosts) {
    if (cost.form != form || cost.pass != pass || cost.rows != rows ||
        cost.storage_bytes != storage) {
      continue;
    }
    const auto distance = [&](const KernelCost& of) {
      return of.gates > gates ? of.gates - gates : gates - of.gates;
    };
    if (found == nullptr || distance(cost) < distance(*found)) found = &cost;
  }
  return found;
}
double whole(double items, double group) {
  return static_cast<double>(static_cast<int64_t>((items + group - 1) / group));
}

class CudaModel {
 public:
  CudaModel(const Problem& problem, Pass pass, const CudaInfo& device)
      : problem_(problem),
        device_(device),
        pass_(pass),
        backward_(pass == Pass::kBackward),
        clock_(device.clock_ghz > 0 ? device.clock_ghz * 1e9 : kUnknownClock),
        bandwidth_(device.memory_bytes_per_second > 0 ? device.memory_bytes_per_second
                                                      : kUnknownBandwidth),
        sms_(at_least_one(device.sm_count)),
        gates_(cell_info(problem.cell).gates),
        hidden_(static_cast<double>(problem.hidden_size)),
        output_(static_cast<double>(problem.output_size())),
        rows_(static_cast<double>(problem.total_rows)),
        steps_(static_cast<double>(problem.seq_len)),
        directions_(problem.directions),
        storage_(static_cast<double>(dtype_bytes(problem.dtype))),
        accum_(static_cast<double>(accum_bytes(problem.dtype))) {
    const SmRates& rates = rates_of(device.sm_arch);
    const bool is_double = problem.dtype == DType::kFloat64;
    fma_ = is_double ? rates.fp64 : rates.fp32;
    product_ = fma_;
    if (problem.dtype == DType::kFloat16) product_ = larger(fma_, rates.fp16);
    if (problem.dtype == DType::kBFloat16) product_ = larger(fma_, rates.bf16);
    if (problem.dtype == DType::kFloat32 && device.allow_tf32) {
      product_ = larger(fma_, rates.tf32);
    }
  }

  double per_step_product() const {
    const double rows = rows_ / steps_;
    // A direction has a product of its own, and all share the pointwise kernel.
    double step = directions_ * step_product(rows, gates_ * hidden_, output_) + pointwise(rows);
    if (problem_.proj_size > 0) {
      step += directions_ * step_product(rows, output_, hidden_) + pointwise(rows);
    }
    return outside() + steps_ * step;
  }

  double per_step_fused(const CudaSizes& sizes) const {
    const double rows = at_least_one(rows_ / steps_);
    const bool tensor = sizes.row_tile > 0;
    const double block_rows = tensor ? sizes.row_tile : kFusedRows;
    const double units = tensor ? kTensorUnits[static_cast<int>(pass_)] : kFusedUnits;
    const double row_tiles = whole(rows, block_rows);
    const double blocks = directions_ * row_tiles * whole(hidden_, units);
    const double fmas = gates_ * hidden_ * units * block_rows;  // of a block
    const KernelForm form = tensor ? KernelForm::kFusedTensor : KernelForm::kFused;
    const double clocks = kernel_clocks(
        find_cost(form, pass_, problem_, sizes.row_tile), fmas, kFusedThreads, whole(blocks, sms_),
        2, tensor ? kFusedTensorShare * product_ : fma_, tensor ? 0 : kTileClocks);
    const double traffic = row_tiles * l2_clocks(directions_ * weights() * storage_);
    const double step = (larger(clocks, traffic) + kKernelClocks) / clock_;
    if (sizes.recording == Recording::kNever) {
      return outside() + steps_ * (kKernelSeconds + step);
    }
    const double graphs = whole(steps_, static_cast<double>(sizes.chunk_steps));
    return outside() + graphs * kGraphLaunchSeconds + steps_ * (kGraphKernelSeconds + step);
  }

  double single_block(const CudaSizes& sizes) const {
    const double tiles = whole(static_cast<double>(problem_.batch_size), sizes.batch_tile);
    const double blocks = directions_ * tiles;
    // Blocks of one SM share its rates and hide each other's latency.
    const double on_sm = whole(blocks, sms_);
    int64_t fit = device_.smem_bytes_per_sm / (sizes.smem_bytes + kReservedSmemBytes);
    if (fit > kThreadsOfSm / sizes.threads) fit = kThreadsOfSm / sizes.threads;
    const int64_t registers = int64_t{kSingleBlockRegisters} * sizes.threads;
    if (device_.registers_per_sm > 0 && fit > device_.registers_per_sm / registers) {
      fit = device_.registers_per_sm / registers;
    }
    if (fit < 1) fit = 1;
    const double resident = smaller(on_sm, static_cast<double>(fit));
    // Idle lanes of the last warp issue as well.
    const double fmas = gates_ * hidden_ * sizes.thread_rows * sizes.threads;
    const KernelCost* cost =
        find_cost(KernelForm::kSingleBlock, pass_, problem_, sizes.thread_rows);
    const double clocks = kernel_clocks(cost, fmas, sizes.threads, resident, kBusyWarps, fma_, 0);
    // A row group reads all weights, four bytes a lane and clock at most.
    const double groups = static_cast<double>(sizes.threads) / sizes.unit_threads;
    const double traffic = resident * groups * weights() * larger(storage_, 4) / kSmemBytesPerClock;
    const double step = kStepClocks + larger(clocks, traffic);
    const double load = l2_clocks(blocks * weights() * storage_);
    return outside() + kKernelSeconds + (whole(on_sm, resident) * steps_ * step + load) / clock_;
  }

 private:
  double weights() const { return gates_ * hidden_ * output_; }

  // Clocks in which an SM runs a step in so many of its blocks: what they issue, with at least
  // `warps` warps a scheduler, or their multiply-adds at `rate` a clock.
  double kernel_clocks(const KernelCost* cost, double fmas, int threads, double blocks,
                       double warps, double rate, double iteration_clocks) const {
    const double floor = blocks * fmas / rate;
    if (cost == nullptr || cost->fmas == 0) return floor;
    const double iterations = fmas / (static_cast<double>(cost->fmas) * threads);
    const double of_scheduler = larger(warps, blocks * threads / kWarpSize / kIssuedPerClock);
    double instructions = iterations * cost->loop + cost->around * gates_ / cost->gates;
    if (problem_.dtype == DType::kBFloat16 && cost->form == KernelForm::kFusedTensor &&
        device_.sm_arch < 80) {
      instructions *= kEmulatedInstructions;
    }
    return larger(floor, of_scheduler * instructions) + iterations * iteration_clocks;
  }

  // Clocks in which the whole device reads so many bytes of weights, the same in every step.
  double l2_clocks(double bytes) const {
    const double cached = smaller(bytes, kUsableL2 * static_cast<double>(device_.l2_bytes));
    return cached / (kL2BytesPerClock * sms_) + (bytes - cached) / bandwidth_ * clock_;
  }

  // Of the multiply-adds of products of whole sequences.
  double large_product(double fmas) const {
    return kProductCallSeconds + fmas / (product_ * sms_ * clock_ * kLargeProductShare);
  }

  // Input projection; backward has the gradients of input and of both weights.
  double outside() const {
    const double inputs = static_cast<double>(problem_.input_size);
    const double input_side = rows_ * gates_ * hidden_ * inputs;
    if (!backward_) return directions_ * large_product(input_side);
    return directions_ * (2 * large_product(input_side) + large_product(rows_ * weights()));
  }

  double step_product(double m, double n, double k) const {
    const double blocks = whole(m, kProductTile) * whole(n, kProductTile);
    const double busy = smaller(1, blocks / sms_);
    const double arithmetic =
        blocks * kProductTile * kProductTile * k / (product_ * sms_ * busy * kLargeProductShare);
    const double traffic = l2_clocks(n * k * storage_);
    return kKernelSeconds + kProductCallSeconds + larger(arithmetic, traffic) / clock_;
  }

  double pointwise(double rows) const {
    const double values = directions_ * rows * hidden_ * (2 * gates_ + 4);
    const double traffic = values * accum_ / (kL2BytesPerClock * sms_);
    const double warps = directions_ * rows * hidden_ / kWarpSize / sms_;
    const KernelCost* cost = find_cost(KernelForm::kPointwise, pass_, problem_, 0);
    const double issue = cost == nullptr ? 0 : larger(warps / kIssuedPerClock, 1) * cost->around;
    return kKernelSeconds + (larger(traffic, issue) + kKernelClocks) / clock_;
  }

  const Problem& problem_;
  const CudaInfo& device_;
  Pass pass_;
  bool backward_;
  double clock_;      // a second
  double bandwidth_;  // bytes a second
  double sms_;
  double gates_;
  double hidden_;
  double output_;
  double rows_;
  double steps_;
  double directions_;
  double storage_;  // bytes
  double accum_;    // bytes
  double fma_;      // multiply-adds a clock of an SM, in our kernels
  double product_;  // and in torch's products
};

}  // namespace

bool has_tensor_kernel(const Problem& problem, Pass pass, int rows) {
  return find_cost(KernelForm::kFusedTensor, pass, problem, rows) != nullptr;
}

double modelled_cuda_seconds(const Problem& problem, Pass pass, const CudaInfo& device,
                             const CudaSizes& sizes) {
  const CudaModel model(problem, pass, device);
  if (sizes.schedule == Schedule::kSingleBlock) return model.single_block(sizes);
  return sizes.form == StepForm::kFused ? model.per_step_fused(sizes) : model.per_step_product();
}

}  // namespace fusedrnn
