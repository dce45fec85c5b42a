// The time model: seconds of all directions of a layer under a schedule.
//
// A step of the recurrence costs its arithmetic and its weight traffic, mostly at the same time,
// plus what the schedule pays for the step itself; a call adds what it pays once. The input
// projection is the same for all schedules.
//
// The rates were measured on machines with two cores, one with AVX-512 and 1 MiB of L2 a core,
// one with AVX2 only. They rank schedules; they do not predict the clock of another machine.
#include "cells/registry.h"
#include "plan/arithmetic.h"
#include "plan/cpu_plan.h"

namespace fusedrnn {

namespace {

// Floating-point operations a second of one core in a large float32 product, by Isa.
constexpr double kProductRate[] = {18e9, 72e9, 120e9};
// A product of the library takes as long as one with this many rows more at that rate, a single
// row apart: on one thread [1, 512] times [512, 2048] ran at 21 Gflop/s, [4, 256] times [256, 1024]
// at 33, [16, 256] at 60, [32, 512] at 69, [64, 256] at 75; an LSTM step [8, 512] on a later
// machine at 35.
constexpr double kFewRows = 12;
constexpr double kSingleRow = 4;
// And each doubling of the threads leaves it this share.
constexpr double kPerStepScaling = 0.85;

// Bytes a second at which a core streams weights, by where they lie; so many cores saturate
// the memory.
constexpr double kL2Rate = 95e9;
constexpr double kL3Rate = 35e9;
constexpr double kMemoryRate = 12e9;
constexpr double kMemorySharers = 4;
// Bytes a second that a core reads and writes when it packs weights.
constexpr double kPackRate = 14e9;
// Share of a cache that is left for weights.
constexpr double kUsableCache = 0.9;

// Seconds an activation (exp, tanh or sigmoid) takes a unit in 16-byte vectors of float.
constexpr double kActivationSeconds = 1.8e-9;
constexpr double kVectorsOf16[] = {1, 2.7, 4};  // how much faster an Isa is at it

// Products of weights in place run at this share of the rate; and seconds that it takes to add up
// the lanes of a sum.
constexpr double kInPlaceShare = 0.5;
constexpr double kLaneSumSeconds = 1.0e-9;

constexpr double kCallSeconds = 1e-6;  // of one product or pointwise kernel
// Of a parallel region and of a barrier in one, with the wait for the slower of unequal cores,
// and what each thread adds to them.
constexpr double kForkJoinSeconds = 3e-6;
constexpr double kForkJoinThreadSeconds = 0.1e-6;
constexpr double kBarrierSeconds = 1.0e-6;
constexpr double kBarrierThreadSeconds = 0.05e-6;

// Arithmetic hides most of the traffic, or the other way round.
double overlapped(double a, double b) {
  constexpr double kExposed = 0.2;
  return a > b ? a + kExposed * b : b + kExposed * a;
}

class Model {
 public:
  Model(const Problem& problem, const CpuInfo& cpu, int directions_at_once)
      : problem_(problem),
        cpu_(cpu),
        at_once_(directions_at_once),
        gates_(cell_info(problem.cell).gates),
        hidden_(static_cast<double>(problem.hidden_size)),
        rows_(static_cast<double>(problem.total_rows)),
        steps_(static_cast<double>(problem.seq_len)),
        rate_(kProductRate[static_cast<int>(cpu.isa)] * 4 / accum_bytes(problem.dtype)) {
    const double output = static_cast<double>(problem.output_size());
    weights_ = gates_ * hidden_ * output;
    if (problem.proj_size > 0) weights_ += hidden_ * output;
    input_weights_ = gates_ * hidden_ * static_cast<double>(problem.input_size);
    input_bytes_ = input_weights_ * static_cast<double>(accum_bytes(problem.dtype));
    weight_bytes_ = weights_ * static_cast<double>(accum_bytes(problem.dtype));
  }

  // Seconds of one direction, or of both where they run at once.
  double per_step(int num_threads) const {
    const double threads = num_threads;
    // A product and a pointwise kernel each for the cell and the projection.
    const double calls = problem_.proj_size > 0 ? 4 : 2;
    const double call = kCallSeconds + fork_join(threads);
    double rate = rate_;
    // A single row is a matrix-vector product, which the library leaves to one thread.
    const double sharers = rows_ > steps_ ? threads : 1;
    for (double t = 1; t < sharers; t *= 2) rate *= kPerStepScaling;
    const double more = rows_ > steps_ ? kFewRows : kSingleRow;
    const double arithmetic = 2 * (rows_ + more * steps_) * weights_ / (rate * sharers);
    const double traffic = steps_ * stream(weight_bytes_ / sharers, sharers * at_once_);
    return library_projection() + overlapped(arithmetic, traffic) + pointwise(threads) + at_once() +
           steps_ * calls * call + widening(threads);
  }

  double persistent(Split split, int num_threads, Weights weights) const {
    const double threads = num_threads;
    // Whole rows, or whole vectors of units, fall to a thread.
    double share, bytes, barrier = 0;
    if (split == Split::kRows) {
      share = largest_share(rows_ / steps_, threads, 1);
      bytes = weight_bytes_;
    } else {
      share = largest_share(hidden_, threads, 16);
      bytes = weight_bytes_ * share;
      if (threads > 1) barrier = kBarrierSeconds + kBarrierThreadSeconds * threads;
      if (problem_.proj_size > 0) barrier *= 2;
    }
    const double steps = pointwise(1 / share) + steps_ * barrier;
    // A region that sweeps, and one that packs.
    const double region = kCallSeconds + fork_join(threads);
    const double readers = threads * at_once_;
    const double pack_rate = kPackRate * smaller(threads, kMemorySharers);
    const double pack_input = cpu_.isa == Isa::kGeneric ? 0 : 2 * input_bytes_ / pack_rate;
    if (weights == Weights::kInPlace) {
      const double sides = 1 + input_weights_ / weights_;
      const double sums =
          rows_ * gates_ * hidden_ * kLaneSumSeconds * (cell_info(problem_.cell).split ? 2 : 1);
      const double arithmetic = 2 * rows_ * weights_ * sides / (rate_ * kInPlaceShare) + sums;
      const auto element_bytes = weight_bytes(problem_.dtype, problem_.format);
      const double traffic =
          steps_ * stream(bytes * sides * share_of_accum(element_bytes), readers);
      return at_once() + region + steps + overlapped(arithmetic * share, traffic);
    }
    const bool keeps_storage = cpu_.isa != Isa::kGeneric && rows_ <= kStoragePanelRows * steps_;
    const double panels =
        keeps_storage ? bytes * share_of_accum(dtype_bytes(problem_.dtype)) : bytes;
    const double pack = 2 * weight_bytes_ / pack_rate + pack_input + widening(threads);
    const double arithmetic = 2 * rows_ * weights_ * share / rate_;
    return at_once() + input_projection() + 2 * region + pack + steps +
           overlapped(arithmetic, steps_ * stream(panels, readers));
  }

 private:
  double share_of_accum(int64_t element_bytes) const {
    return static_cast<double>(element_bytes) / static_cast<double>(accum_bytes(problem_.dtype));
  }

  // Weights in a format of their own are copied once a call for all that does not read them in
  // place.
  double widening(double threads) const {
    if (problem_.format == WeightFormat::kSame) return 0;
    const int64_t element_bytes = weight_bytes(problem_.dtype, problem_.format);
    const double bytes = (weight_bytes_ + input_bytes_) * (1 + share_of_accum(element_bytes));
    return bytes / (kPackRate * smaller(threads, kMemorySharers));
  }

  static double fork_join(double threads) {
    return threads > 1 ? kForkJoinSeconds + kForkJoinThreadSeconds * threads : 0;
  }

  // The region in which both directions run.
  double at_once() const { return fork_join(at_once_); }

  // The largest thread's share of `count` items handed out in whole groups.
  static double largest_share(double count, double threads, double group) {
    if (count <= 0) return 1 / threads;
    const double groups = static_cast<double>(static_cast<int64_t>((count + group - 1) / group));
    const double of_one =
        static_cast<double>(static_cast<int64_t>((groups + threads - 1) / threads));
    return smaller(1, of_one / groups);
  }

  double input_projection() const {
    const double inputs = static_cast<double>(problem_.input_size);
    const double threads = at_once_ > 1 ? 1 : cpu_.num_threads;
    return 2 * rows_ * gates_ * hidden_ * inputs / (rate_ * threads) + kCallSeconds;
  }

  // The same as one product of the library. It reads weight_ih for however few rows, which the
  // recurrent weights leave less room in the caches.
  double library_projection() const {
    const double threads = at_once_ > 1 ? 1 : cpu_.num_threads, readers = threads * at_once_;
    const double more = rows_ > 1 ? kFewRows : kSingleRow;
    const double arithmetic = 2 * (rows_ + more) * input_weights_ / (rate_ * threads);
    const double traffic = stream((weight_bytes_ + input_bytes_) / threads, readers) -
                           stream(weight_bytes_ / threads, readers);
    return overlapped(arithmetic, traffic) + kCallSeconds;
  }

  double pointwise(double threads) const {
    const double unit = kActivationSeconds / kVectorsOf16[static_cast<int>(cpu_.isa)] *
                        (accum_bytes(problem_.dtype) / 4.0) *
                        (1 + cell_info(problem_.cell).activations);
    return rows_ * hidden_ * unit / threads;
  }

  // Seconds for every one of `threads` to read its own `bytes` once, step after step.
  double stream(double bytes, double threads) const {
    const double l2 = kUsableCache * static_cast<double>(cpu_.l2_bytes);
    const double in_l2 = smaller(bytes, l2);
    const double l3 = kUsableCache * static_cast<double>(cpu_.l3_bytes);
    const double in_l3 = smaller(bytes - in_l2, l3 > in_l2 ? l3 - in_l2 : 0);
    const double in_memory = bytes - in_l2 - in_l3;
    const double sharers = threads > kMemorySharers ? threads / kMemorySharers : 1;
    return in_l2 / kL2Rate + in_l3 / kL3Rate + in_memory * sharers / kMemoryRate;
  }

  const Problem& problem_;
  const CpuInfo& cpu_;
  double at_once_;  // directions
  double gates_;
  double hidden_;
  double rows_;
  double steps_;
  double rate_;     // floating-point operations a second of a core
  double weights_;  // elements that a step multiplies by
  double weight_bytes_;
  double input_weights_;  // elements of weight_ih
  double input_bytes_;
};

}  // namespace

double modelled_seconds(const Problem& problem, const CpuInfo& cpu, const CpuSizes& sizes) {
  const Model model(problem, cpu, sizes.directions_at_once);
  const double turn = sizes.schedule == Schedule::kPerStep
                          ? model.per_step(sizes.num_threads)
                          : model.persistent(sizes.split, sizes.num_threads, sizes.weights);
  return turn * (problem.directions / sizes.directions_at_once);
}

}  // namespace fusedrnn
