// The time model: seconds of a pass over all directions of a layer under a schedule.
//
// A step of the recurrence costs its arithmetic and its weight traffic, mostly at the same time,
// plus what the schedule pays for the step itself; a call adds what it pays once. The products over
// all steps, the input projection and those of the gradients, are kernels of this library under
// persistent, and the runtime's under per_step.
//
// Threads, sockets and the sizes of caches are those of the machine. What the constants assume of
// every machine is in docs/how-it-works/planning.md, a row for each. They rank schedules; they do
// not predict the clock of another machine.
#include "cells/registry.h"
#include "plan/arithmetic.h"
#include "plan/cpu_plan.h"

namespace fusedrnn {

namespace {

// Of one core, by Isa: fitted to `python -m bench model` on an Intel Xeon with 2 MiB of L2, as it
// is and held to AVX2, as are the constants below that say nothing else. The generic ones are of an
// older machine.
struct Rates {
  // Floating-point operations a second of float32: in tiles of the sweep and of the products like
  // it, in the products for the gradients of weights, and in large products of the runtime.
  double tiles, gradients, library;
  // Seconds of an activation (exp, tanh or sigmoid) a unit, and of each value that a step of
  // backward reads or writes beside its product, of a block of rows and row after row.
  double activation, value_of_block, value_of_row;
};
constexpr Rates kRates[] = {
    {18e9, 18e9, 18e9, 1.8e-9, 1.0e-9, 0.5e-9},
    {89e9, 77e9, 95e9, 0.67e-9, 0.45e-9, 0.35e-9},
    {178e9, 150e9, 176e9, 0.48e-9, 0.3e-9, 0.25e-9},
};
// A product of the library takes as long as one with this many rows more at its rate, a single
// row apart.
constexpr double kFewRows = 8;
constexpr double kSingleRow = 4;
// And each doubling of the threads leaves it this share.
constexpr double kPerStepScaling = 0.85;

// Bytes a second at which a core streams weights, by where they lie; so many cores saturate
// the memory.
constexpr double kL2Rate = 95e9;
constexpr double kL3Rate = 45e9;
constexpr double kMemoryRate = 16e9;
constexpr double kMemorySharers = 4;
// Bytes a second that a core reads and writes when it packs weights.
constexpr double kPackRate = 25e9;
// Share of a cache that is left for weights.
constexpr double kUsableCache = 0.9;

// Products of weights in place run at this share of the rate; and seconds that it takes to add up
// the lanes of a sum.
constexpr double kInPlaceShare = 0.75;
constexpr double kLaneSumSeconds = 1.0e-9;

constexpr double kCallSeconds = 0.3e-6;  // of one product or pointwise kernel
// Of a parallel region and of a barrier in one, with the wait for the slower of unequal cores,
// and what each thread adds to them.
constexpr double kForkJoinSeconds = 2.5e-6;
constexpr double kForkJoinThreadSeconds = 0.1e-6;
constexpr double kBarrierSeconds = 0.8e-6;
constexpr double kBarrierThreadSeconds = 0.05e-6;
// Bytes a second at which a thread that splits units reads what the others wrote in the step
// before, and takes back the lines that they have read. Two threads that split units, less the same
// that split rows, a step of GRU with 128 units: 1.6, 3.0, 4.8 and 10.6 us for 16, 32, 64 and 128
// rows, which is 2.6 to 3.4e9; backward 5.7, 7.4, 13 and 25 us for three times the bytes. So are
// panels read that another thread packed: six steps of LSTM with 32 rows and 256 units took 0.87 ms
// split by rows, 0.67 ms split by units.
constexpr double kExchangeRate = 3.4e9;
// How many times as long a line of cache takes from a core of another socket. Not measured.
constexpr double kOtherSocket = 2.5;

// Arithmetic hides most of the traffic, or the other way round.
double overlapped(double a, double b) {
  constexpr double kExposed = 0.2;
  return a > b ? a + kExposed * b : b + kExposed * a;
}

class Model {
 public:
  Model(const Problem& problem, Pass pass, const CpuInfo& cpu, int directions_at_once)
      : problem_(problem),
        pass_(pass),
        cpu_(cpu),
        cell_(cell_info(problem.cell)),
        rates_(kRates[static_cast<int>(cpu.isa)]),
        at_once_(directions_at_once),
        gates_(cell_.gates),
        hidden_(static_cast<double>(problem.hidden_size)),
        output_(static_cast<double>(problem.output_size())),
        rows_(static_cast<double>(problem.total_rows)),
        steps_(static_cast<double>(problem.seq_len)),
        accum_(static_cast<double>(accum_bytes(problem.dtype))),
        // Of a float64 half as many fit into a vector.
        slower_(accum_ / 4) {
    weights_ = gates_ * hidden_ * output_;
    if (problem.proj_size > 0) weights_ += hidden_ * output_;
    input_weights_ = gates_ * hidden_ * static_cast<double>(problem.input_size);
    input_bytes_ = input_weights_ * accum_;
    weight_bytes_ = weights_ * accum_;
  }

  // Seconds of one direction, or of both where they run at once.
  double per_step(int num_threads) const {
    const double threads = num_threads;
    // A product and a pointwise kernel each for the cell and the projection.
    const double calls = problem_.proj_size > 0 ? 4 : 2;
    const double call = kCallSeconds + fork_join(threads);
    double rate = rates_.library / slower_;
    // A single row is a matrix-vector product, which the library leaves to one thread.
    const double sharers = rows_ > steps_ ? threads : 1;
    for (double t = 1; t < sharers; t *= 2) rate *= kPerStepScaling;
    const double more = rows_ > steps_ ? kFewRows : kSingleRow;
    const double arithmetic = 2 * (rows_ + more * steps_) * weights_ / (rate * sharers);
    const double traffic =
        steps_ * stream(weight_bytes_ / sharers, sharers * at_once_, weight_bytes_);
    const double whole = is_backward() ? library_gradients() : library_projection();
    return whole + overlapped(arithmetic, traffic) + pointwise(threads, rates_.value_of_row) +
           at_once() + steps_ * calls * call + widening(threads);
  }

  double persistent(Split split, int num_threads, Weights weights) const {
    const double threads = num_threads;
    // Whole rows, or whole vectors of units, fall to a thread.
    double share, bytes, wait = 0, first_read = 0;
    if (split == Split::kRows) {
      share = largest_share(rows_ / steps_, threads, 1);
      bytes = weight_bytes_;
      // Each thread packed a part of what all of them read.
      const double packed = (weight_bytes_ + input_bytes_) * (1 - 1 / threads);
      first_read = packed * distance(threads) / kExchangeRate;
    } else {
      share = largest_share(hidden_, threads,
                            static_cast<double>(units_of_panel(problem_, pass_, cpu_.isa)));
      bytes = weight_bytes_ * share;
      if (threads > 1) wait = steps_ * barrier(threads) + exchange(threads, share);
    }
    const double steps = pointwise(1 / share, rates_.value_of_block) + wait;
    // A region that sweeps, and one that packs.
    const double region = kCallSeconds + fork_join(threads);
    const double readers = threads * at_once_;
    const double pack_rate = kPackRate * smaller(threads, kMemorySharers);
    const double rate = rates_.tiles / slower_;
    if (weights == Weights::kInPlace) {
      const double sides = 1 + input_weights_ / weights_;
      const double sums = rows_ * gates_ * hidden_ * kLaneSumSeconds * (cell_.split ? 2 : 1);
      const double arithmetic = 2 * rows_ * weights_ * sides / (rate * kInPlaceShare) + sums;
      const double element = share_of_accum(weight_bytes(problem_.dtype, problem_.format));
      const double traffic =
          steps_ * stream(bytes * sides * element, readers, weight_bytes_ * sides * element);
      return at_once() + region + steps + overlapped(arithmetic * share, traffic);
    }
    const bool keeps_storage = cpu_.isa != Isa::kGeneric && rows_ <= kStoragePanelRows * steps_;
    const double element = keeps_storage ? share_of_accum(dtype_bytes(problem_.dtype)) : 1;
    const double pack_input = cpu_.isa == Isa::kGeneric ? 0 : 2 * input_bytes_ / pack_rate;
    const double pack = 2 * weight_bytes_ / pack_rate + pack_input + first_read + widening(threads);
    const double arithmetic = 2 * rows_ * weights_ * share / rate;
    const double traffic = steps_ * stream(bytes * element, readers, weight_bytes_ * element);
    return at_once() + (is_backward() ? gradients() : input_projection()) + 2 * region + pack +
           steps + overlapped(arithmetic, traffic);
  }

 private:
  bool is_backward() const { return pass_ == Pass::kBackward; }

  double share_of_accum(int64_t element_bytes) const {
    return static_cast<double>(element_bytes) / accum_;
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

  // How many times as long as within a socket a line takes from one thread to another.
  double distance(double threads) const {
    const double cores = cpu_.socket_cores;
    if (cores == 0 || threads <= cores) return 1;
    return 1 + (kOtherSocket - 1) * (1 - cores / threads);
  }

  // Every thread looks at the flag of every other one.
  double barrier(double threads) const {
    const double once = kBarrierSeconds + kBarrierThreadSeconds * threads * distance(threads);
    return problem_.proj_size > 0 ? 2 * once : once;
  }

  // A thread that has a share of the units reads what the other threads have of the rows of a step:
  // h, or the gradients of the gates.
  double exchange(double threads, double share) const {
    const double width = is_backward() ? gates_ * hidden_ : output_;
    const double bytes = rows_ * width * accum_ * (1 - share);
    return bytes * distance(threads) / kExchangeRate;
  }

  // The largest thread's share of `count` items handed out in whole groups.
  static double largest_share(double count, double threads, double group) {
    if (count <= 0) return 1 / threads;
    const double groups = static_cast<double>(static_cast<int64_t>((count + group - 1) / group));
    const double of_one =
        static_cast<double>(static_cast<int64_t>((groups + threads - 1) / threads));
    return smaller(1, of_one / groups);
  }

  // Threads of a product over all steps.
  double product_threads() const { return at_once_ > 1 ? 1 : cpu_.num_threads; }

  double input_projection() const {
    return 2 * rows_ * input_weights_ * slower_ / (rates_.tiles * product_threads()) + kCallSeconds;
  }

  // The same as one product of the library. It reads weight_ih for however few rows, which the
  // recurrent weights leave less room in the caches.
  double library_projection() const { return library_product() + kCallSeconds; }

  double library_product() const {
    const double threads = product_threads(), readers = threads * at_once_;
    const double more = rows_ > 1 ? kFewRows : kSingleRow;
    const double arithmetic =
        2 * (rows_ + more) * input_weights_ * slower_ / (rates_.library * threads);
    const double all = weight_bytes_ + input_bytes_;
    const double traffic = stream(all / threads, readers, all) -
                           stream(weight_bytes_ / threads, readers, weight_bytes_);
    return overlapped(arithmetic, traffic);
  }

  // The products for the gradients of the input and of both weights. Their operands, the gradients
  // of the gates and the rows of input and h, are packed first.
  double gradients() const {
    const double threads = product_threads();
    const double to_weights = 2 * rows_ * (input_weights_ + weights_) / rates_.gradients;
    const double to_input = 2 * rows_ * input_weights_ / rates_.tiles;
    const double inputs = static_cast<double>(problem_.input_size);
    const double packed = rows_ * (gates_ * hidden_ + inputs + output_) * accum_;
    return (to_weights + to_input) * slower_ / threads +
           2 * packed / (kPackRate * smaller(threads, kMemorySharers)) + 3 * kCallSeconds;
  }

  double library_gradients() const {
    const double to_weights = 2 * (rows_ + kFewRows) * (input_weights_ + weights_);
    return library_product() + to_weights * slower_ / (rates_.library * product_threads()) +
           3 * kCallSeconds;
  }

  // The cell of all steps: `value` seconds for each value of a step of backward.
  double pointwise(double threads, double value) const {
    double unit = rates_.activation * (1 + cell_.activations);
    if (is_backward()) {
      const double grads = gates_ * (cell_.split ? 2 : 1);
      unit = value * (static_cast<double>(cell_.saved_width()) + grads + 2);
    }
    return rows_ * hidden_ * unit * slower_ / threads;
  }

  // Seconds for every one of `threads` to read its own `bytes`, of `all` that they share, once,
  // step after step.
  double stream(double bytes, double threads, double all) const {
    const double l2 = kUsableCache * static_cast<double>(cpu_.l2_bytes);
    const double in_l2 = smaller(bytes, l2);
    // What all of the threads read and the last cache has no room for comes from memory.
    const double l3 = kUsableCache * static_cast<double>(cpu_.l3_bytes);
    const double rest = bytes - in_l2;
    const double in_l3 = all > l3 ? rest * l3 / all : rest;
    const double in_memory = rest - in_l3;
    const double sharers = threads > kMemorySharers ? threads / kMemorySharers : 1;
    return in_l2 / kL2Rate + in_l3 / kL3Rate + in_memory * sharers / kMemoryRate;
  }

  const Problem& problem_;
  const Pass pass_;
  const CpuInfo& cpu_;
  const CellInfo& cell_;
  const Rates& rates_;
  double at_once_;  // directions
  double gates_;
  double hidden_;
  double output_;
  double rows_;
  double steps_;
  double accum_;    // bytes
  double slower_;   // than float32
  double weights_;  // elements that a step multiplies by
  double weight_bytes_;
  double input_weights_;  // elements of weight_ih
  double input_bytes_;
};

}  // namespace

int64_t units_of_panel(const Problem& problem, Pass pass, Isa isa) {
  constexpr int64_t kVectorBytes[] = {16, 32, 64};
  const bool has_gates = pass == Pass::kForward && cell_info(problem.cell).gates > 1;
  const int64_t lanes = kVectorBytes[static_cast<int>(isa)] / accum_bytes(problem.dtype);
  return has_gates ? lanes : 2 * lanes;
}

double modelled_seconds(const Problem& problem, Pass pass, const CpuInfo& cpu,
                        const CpuSizes& sizes) {
  const Model model(problem, pass, cpu, sizes.directions_at_once);
  const double turn = sizes.schedule == Schedule::kPerStep
                          ? model.per_step(sizes.num_threads)
                          : model.persistent(sizes.split, sizes.num_threads, sizes.weights);
  return turn * (problem.directions / sizes.directions_at_once);
}

}  // namespace fusedrnn
