// The kernels of a layer against plain double loops: every cell, storage type, schedule,
// split, thread count, direction and kind of batch, on sizes around each tile.
//
// Long because all tests share one way to run a case.
#include <cstdio>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "check.h"
#include "cpu/cpu_library.h"
#include "layer_oracle.h"
#include "stored_weight.h"
#include "threads.h"

using namespace fusedrnn;
using namespace oracle;

namespace {

constexpr Isa kIsa = FUSEDRNN_TEST_ISA;  // the program is for one

// One way of the CPU's schedules to run a layer.
struct Case : LayerCase {
  Schedule schedule = Schedule::kPerStep;
  Split split = Split::kRows;
  int threads = 1;
  bool concurrent = true;
  int64_t min_split_rows = 0;  // as in Plan
  bool multiplies_input = false;
  Weights weights = Weights::kPacked;
  WeightFormat format = WeightFormat::kSame;
  bool padded = false;  // rows of the caller lie as LayerShape's order says, if packed

  std::string way() const override {
    return std::string(schedule_name(schedule)) + " " + split_name(split) +
           " threads=" + std::to_string(threads) +
           " min_split_rows=" + std::to_string(min_split_rows) +
           (multiplies_input ? " multiplies_input" : "") + " weights " + weights_name(weights) +
           " format=" + std::to_string(static_cast<int>(format)) + (padded ? " padded" : "");
  }
};

// The rows of a packed sequence among those of a padded one, in falling order, with two to spare.
class CallerRows {
 public:
  explicit CallerRows(const Case& k)
      : padded_(k.padded && k.packed), padded_rows_(k.batch_size + 2) {
    for (int64_t b = 0; b < k.batch_size; ++b) order_.push_back(k.batch_size - b);
    const std::vector<int64_t> sizes = k.batch_sizes();
    for (int64_t t = 0; t < k.seq_len; ++t) {
      for (int64_t b = 0; b < sizes[t]; ++b) {
        const auto row = static_cast<int64_t>(caller_rows_.size());
        caller_rows_.push_back(padded_ ? t * padded_rows_ + order_[b] : row);
      }
    }
    rows_ = padded_ ? k.seq_len * padded_rows_ : k.total_rows();
  }

  void set(LayerShape* shape) const {
    if (!padded_) return;
    shape->order = order_.data();
    shape->padded_rows = padded_rows_;
  }
  // What the caller has of values [rows of the sequence, width]: NaN in the rows to spare.
  Buffer spread(const Buffer& values, int64_t width) const {
    if (values.size() == 0) return values.copy();
    Buffer spread(values.dtype(), rows_ * width);
    for (size_t row = 0; row < caller_rows_.size(); ++row) {
      for (int64_t i = 0; i < width; ++i) {
        spread.set(caller_rows_[row] * width + i,
                   values.get(static_cast<int64_t>(row) * width + i));
      }
    }
    return spread;
  }
  std::vector<uint8_t> spread(const std::vector<uint8_t>& values) const {
    if (values.empty()) return values;
    std::vector<uint8_t> spread(static_cast<size_t>(rows_), 1);
    for (size_t row = 0; row < caller_rows_.size(); ++row) spread[caller_rows_[row]] = values[row];
    return spread;
  }
  // The rows of the sequence in what the caller has, and whether the rows to spare are still NaN.
  Buffer collect(const Buffer& spread, int64_t width, bool* ok) const {
    if (spread.size() == 0) return spread.copy();
    Buffer values(spread.dtype(), static_cast<int64_t>(caller_rows_.size()) * width);
    Buffer rest = spread.copy();
    for (size_t row = 0; row < caller_rows_.size(); ++row) {
      for (int64_t i = 0; i < width; ++i) {
        const int64_t from = caller_rows_[row] * width + i;
        values.set(static_cast<int64_t>(row) * width + i, spread.get(from));
        rest.set(from, std::numeric_limits<double>::quiet_NaN());
      }
    }
    for (int64_t i = 0; i < rest.size(); ++i) *ok = *ok && std::isnan(rest.get(i));
    return values;
  }

 private:
  bool padded_;
  int64_t padded_rows_, rows_;
  std::vector<int64_t> order_, caller_rows_;
};

// Has real threads, or runs the bodies one after the other; multiplies by plain loops; its scratch
// is NaN.
class TestRuntime : public CpuRuntime {
 public:
  explicit TestRuntime(bool concurrent) : concurrent_(concurrent) {}

  void parallel(int max_threads, ParallelBody body) override {
    if (!concurrent_) {
      for (int i = 0; i < max_threads; ++i) body(i, max_threads);
      return;
    }
    run_on_threads(max_threads, [&](int i) { body(i, max_threads); });
  }

  void gemm(DType dtype, Transpose trans_a, Transpose trans_b, int64_t m, int64_t n, int64_t k,
            const void* a, int64_t lda, const void* b, int64_t ldb, double beta, void* c,
            int64_t ldc) override {
    if (dtype == DType::kFloat64) {
      multiply<double, double>(trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc);
    } else {
      multiply<float, float>(trans_a, trans_b, m, n, k, a, lda, b, ldb, beta, c, ldc);
    }
  }

  bool repeats_gemm() const override { return !concurrent_; }

  void* allocate(size_t bytes) override {
    constexpr size_t kAlign = 64;
    pieces_.emplace_back(new char[bytes + kAlign]);
    char* piece = pieces_.back().get();
    std::memset(piece, 0xFF, bytes + kAlign);
    return piece + (kAlign - reinterpret_cast<uintptr_t>(piece) % kAlign) % kAlign;
  }

 private:
  bool concurrent_;
  std::vector<std::unique_ptr<char[]>> pieces_;
};

// Everything that one run of a case writes.
struct Run {
  std::vector<Buffer> buffers;
};

Buffer saved_buffer(const Case& k) {
  const CellInfo& cell = cell_info(k.cell);
  if (k.recompute == 0) {
    return Buffer(k.dtype, k.total_rows() * cell.saved_width() * k.hidden_size);
  }
  const int64_t parts = (k.seq_len + k.recompute - 1) / k.recompute;
  return Buffer(k.dtype == DType::kFloat64 ? k.dtype : DType::kFloat32,
                parts * k.batch_size * (cell.states - 1) * k.hidden_size);
}

bool run_case(const Case& k, Run* run = nullptr) {
  if (run == nullptr && check::leave_out_case()) return true;
  constexpr int64_t kGap = 3;  // columns between rows of output that belong to another layer
  const unsigned seed = 7;
  Numbers problem = make_problem(k, seed);
  const StoredWeights stored(k.format, k, &problem);
  const Oracle oracle(k, problem);
  const int64_t p = k.output_size(), rows = k.total_rows(), output_row_stride = p + kGap;

  std::vector<Buffer> in;
  for (const Doubles& values : problem.inputs) in.emplace_back(k.dtype, values);
  const auto input = [&](int i) { return problem.inputs[i].empty() ? nullptr : in[i].data(); };
  const std::vector<int64_t> batch_sizes = k.batch_sizes();
  const CallerRows caller_rows(k);
  in[kX] = caller_rows.spread(in[kX], k.input_size);
  const std::vector<uint8_t> reset = caller_rows.spread(problem.reset);
  LayerShape shape{};
  caller_rows.set(&shape);
  shape.cell = k.cell;
  shape.dtype = k.dtype;
  shape.direction = k.direction;
  shape.seq_len = k.seq_len;
  shape.batch_size = k.batch_size;
  shape.total_rows = rows;
  shape.input_size = k.input_size;
  shape.hidden_size = k.hidden_size;
  shape.proj_size = k.proj_size;
  shape.batch_sizes = k.packed ? batch_sizes.data() : nullptr;
  shape.reset = k.reset ? reset.data() : nullptr;
  shape.recompute = k.recompute;
  LayerWeights weights{in[kWeightIh].data(), in[kWeightHh].data(), input(kBiasIh),
                       input(kBiasHh),       input(kWeightHr),     input(kParams)};
  stored.set(&weights);
  Plan plan{};
  plan.schedule = k.schedule;
  plan.split = k.split;
  plan.directions_at_once = 1;
  plan.num_threads = k.threads;
  plan.min_split_rows = k.min_split_rows;
  plan.multiplies_input = k.multiplies_input;
  plan.weights = k.weights;
  plan.chunk_steps = k.chunk_steps;

  // A buffer of the caller's rows, with nothing in it.
  const auto empty_rows = [&](int64_t width) {
    return caller_rows.spread(Buffer(k.dtype, rows * width), width);
  };
  Buffer output = empty_rows(output_row_stride), h_n(k.dtype, k.batch_size * p);
  Buffer c_n(k.dtype, k.batch_size * k.hidden_size);
  Buffer saved = saved_buffer(k);
  Buffer all_c = empty_rows(oracle.expected.c.empty() ? 0 : k.hidden_size);
  TestRuntime runtime(k.concurrent);
  LayerForwardArgs forward{};
  forward.shape = shape;
  forward.weights = weights;
  forward.input = input(kX);
  forward.h_0 = input(kH0);
  forward.c_0 = input(kC0);
  forward.output = output.data();
  forward.output_row_stride = output_row_stride;
  forward.h_n = h_n.data();
  forward.c_n = k.has_c() ? c_n.data() : nullptr;
  forward.reset_h = input(kResetH);
  forward.reset_c = input(kResetC);
  forward.c = all_c.size() > 0 ? all_c.data() : nullptr;
  forward.saved = k.training ? saved.data() : nullptr;
  if (!layer_forward_cpu(forward, plan, kIsa, runtime).ok || last_isa() != kIsa) return false;
  const Expected& expected = oracle.expected;
  bool ok = true;
  const Buffer output_rows = caller_rows.collect(output, output_row_stride, &ok);
  ok = ok && is_close(k, "output", output_rows, expected.output, p, output_row_stride) &&
       is_close(k, "h_n", h_n, expected.h_n, p, p) &&
       is_close(k, "c_n", c_n, expected.c_n, k.hidden_size, k.hidden_size) &&
       is_close(k, "c", caller_rows.collect(all_c, k.hidden_size, &ok), expected.c, 1, 1);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = p; i < output_row_stride; ++i) {
      ok = ok && std::isnan(output_rows.get(row * output_row_stride + i));
    }
  }
  if (!ok || !k.training) return ok;

  Buffer grad_output = caller_rows.spread(Buffer(k.dtype, problem.grad_output), p);
  Buffer grad_h_n(k.dtype, problem.grad_h_n), grad_c_n(k.dtype, problem.grad_c_n);
  Buffer grad_c = caller_rows.spread(Buffer(k.dtype, problem.grad_c), k.hidden_size);
  const int64_t gates_width = k.grad_gates ? k.gates() * k.hidden_size : 0;
  Buffer gates_x = empty_rows(gates_width), gates_r = empty_rows(gates_width);
  std::vector<Buffer> grads;
  for (int i = 0; i < kInputCount; ++i) {
    grads.emplace_back(k.dtype, static_cast<int64_t>(expected.grads[i].size()));
  }
  if (k.accumulate) grads[kX].fill(1);
  grads[kX] = caller_rows.spread(grads[kX], k.input_size);
  const auto grad = [&](int i) {
    return i == k.absent_grad || grads[i].size() == 0 ? nullptr : grads[i].data();
  };
  const auto given = [](Buffer& buffer) { return buffer.size() == 0 ? nullptr : buffer.data(); };
  LayerBackwardArgs backward{};
  backward.shape = shape;
  backward.weights = weights;
  backward.input = input(kX);
  backward.h_0 = input(kH0);
  backward.c_0 = input(kC0);
  backward.output = output.data();
  backward.output_row_stride = output_row_stride;
  backward.saved = saved.data();
  backward.grad_output = given(grad_output);
  backward.grad_output_row_stride = p;
  backward.grad_h_n = given(grad_h_n);
  backward.grad_c_n = given(grad_c_n);
  backward.grad_c = given(grad_c);
  backward.reset_h = input(kResetH);
  backward.reset_c = input(kResetC);
  backward.grad_reset_h = grad(kResetH);
  backward.grad_reset_c = grad(kResetC);
  backward.grad_gates_x = given(gates_x);
  backward.grad_gates_r = given(gates_r);
  backward.grad_input = grad(kX);
  backward.accumulate_grad_input = k.accumulate;
  backward.grad_h_0 = grad(kH0);
  backward.grad_c_0 = grad(kC0);
  backward.grad_weight_ih = grad(kWeightIh);
  backward.grad_weight_hh = grad(kWeightHh);
  backward.grad_bias_ih = grad(kBiasIh);
  backward.grad_bias_hh = grad(kBiasHh);
  backward.grad_weight_hr = grad(kWeightHr);
  backward.grad_params = grad(kParams);
  if (!layer_backward_cpu(backward, plan, plan, kIsa, runtime).ok || last_isa() != kIsa)
    return false;
  grads[kX] = caller_rows.collect(grads[kX], k.input_size, &ok);
  gates_x = caller_rows.collect(gates_x, gates_width, &ok);
  gates_r = caller_rows.collect(gates_r, gates_width, &ok);
  ok = is_close(k, "grad_gates_x", gates_x, expected.grad_gates_x, 1, 1) &&
       is_close(k, "grad_gates_r", gates_r, expected.grad_gates_r, 1, 1) && ok;
  for (int i = 0; i < kInputCount; ++i) {
    if (i == k.absent_grad) continue;
    Doubles values = expected.grads[i];
    if (i == kX && k.accumulate) {
      for (double& value : values) value += 1;
    }
    ok = is_close(k, kGradNames[i], grads[i], values, 1, 1) && ok;
  }
  if (run != nullptr) {
    run->buffers.clear();
    run->buffers.push_back(std::move(output));
    run->buffers.push_back(std::move(h_n));
    for (Buffer& buffer : grads) run->buffers.push_back(std::move(buffer));
  }
  return ok;
}

constexpr Isa kAllIsas[] = {Isa::kGeneric, Isa::kAvx2, Isa::kAvx512};

struct Way {
  Schedule schedule;
  Split split;
  int threads;
  bool concurrent;
  int64_t min_split_rows = 0;
};
constexpr Way kWays[] = {
    {Schedule::kPerStep, Split::kRows, 1, true},
    {Schedule::kPerStep, Split::kRows, 3, false},
    {Schedule::kPersistent, Split::kRows, 1, true},
    {Schedule::kPersistent, Split::kRows, 3, false},
    {Schedule::kPersistent, Split::kRows, 2, true, 4},
    {Schedule::kPersistent, Split::kUnits, 1, true},
    {Schedule::kPersistent, Split::kUnits, 2, true},
    {Schedule::kPersistent, Split::kUnits, 3, true},
};

void set_way(const Way& way, Case* k) {
  k->schedule = way.schedule;
  k->split = way.split;
  k->threads = way.threads;
  k->concurrent = way.concurrent;
  k->min_split_rows = way.min_split_rows;
}

// Body gets every cell with every way to run it; those that can be also with projection.
template <class Body>
void for_each_cell_and_way(const Body& body) {
  for (const CellInfo& info : kCells) {
    const CellKind cell = info.kind;
    for (int projected = 0; projected <= (info.projects ? 1 : 0); ++projected) {
      for (const Way& way : kWays) {
        Case k;
        k.cell = cell;
        k.proj_size = projected ? 4 : 0;
        set_way(way, &k);
        body(k);
        if (k.schedule != Schedule::kPersistent) continue;
        k.multiplies_input = true;
        body(k);
        k.weights = Weights::kInPlace;
        body(k);
      }
    }
  }
}

}  // namespace

TEST(layer_matches_plain_loops_for_every_dtype_direction_and_option) {
  for_each_cell_and_way([&](Case k) {
    for (DType dtype : kAllDTypes) {
      for (Direction direction : kDirections) {
        for (int bits = 0; bits < 16; ++bits) {
          k.dtype = dtype;
          k.direction = direction;
          k.packed = bits & 1;
          k.bias = bits & 2;
          k.states = bits & 4;
          k.training = bits & 8;
          k.padded = k.bias;
          CHECK(run_case(k));
        }
      }
    }
  });
}

TEST(layer_matches_plain_loops_for_sizes_around_the_tiles) {
  for_each_cell_and_way([&](Case k) {
    const bool projected = k.proj_size > 0;
    for (int64_t hidden_size : {1, 8, 9, 16, 17, 31, 33, 67}) {
      for (int64_t batch_size : {1, 2, 6, 7, 14, 15}) {
        k.hidden_size = hidden_size;
        k.batch_size = batch_size;
        k.packed = batch_size == 15;
        k.direction = batch_size == 7 ? Direction::kReverse : Direction::kForward;
        k.seq_len = 3;
        k.chunk_steps = 2;
        k.proj_size = projected && hidden_size > 1 ? 1 + hidden_size / 2 : 0;
        CHECK(run_case(k));
      }
    }
  });
}

TEST(weights_in_place_match_plain_loops_for_every_number_of_rows_and_depth) {
  for_each_cell_and_way([&](Case k) {
    if (k.weights == Weights::kPacked) return;
    k.training = false;
    k.seq_len = 2;
    for (DType dtype : kAllDTypes) {
      k.dtype = dtype;
      for (int64_t batch_size : {1, 2, 3, 4, 5, 8, 9}) {
        k.batch_size = batch_size;
        for (int64_t size : {1, 13, 16, 35, 131}) {
          k.input_size = size;
          k.hidden_size = 3 * batch_size + size / 2;
          k.proj_size = k.proj_size > 0 ? 1 + size / 2 : 0;
          CHECK(run_case(k));
        }
      }
    }
  });
}

TEST(weights_in_formats_of_their_own_match_plain_loops_on_what_they_stand_for) {
  for_each_cell_and_way([&](Case k) {
    if (k.weights == Weights::kPacked) return;
    k.training = false;
    for (WeightFormat format :
         {WeightFormat::kBFloat16, WeightFormat::kFloat16, WeightFormat::kInt8}) {
      k.format = format;
      k.packed = k.reset = k.steps_c = false;
      k.seq_len = 2;
      for (int64_t batch_size : {1, 2, 3, 4, 5, 9}) {
        k.batch_size = batch_size;
        for (int64_t size : {0, 1, 16, 35, 131}) {
          k.input_size = size;
          k.hidden_size = 3 * batch_size + size / 2;
          k.proj_size = k.proj_size > 0 ? 1 + size / 2 : 0;
          CHECK(run_case(k));
        }
      }
      k.seq_len = 7;
      k.packed = k.reset = k.steps_c = true;
      for (Direction direction : kDirections) {
        k.direction = direction;
        k.padded = direction == Direction::kReverse;
        CHECK(run_case(k));
      }
    }
  });
}

TEST(layer_matches_plain_loops_beyond_the_blocks_of_the_matrix_products) {
  Case k;
  set_way({Schedule::kPersistent, Split::kUnits, 2, true}, &k);
  k.hidden_size = 270;  // 1080 gates: more than a block, of rows and of products summed up
  k.input_size = 33;
  k.seq_len = 2;
  for (k.batch_size = 2; k.batch_size <= 15; k.batch_size += 13) CHECK(run_case(k));
  k.hidden_size = 5;
  k.batch_size = 130;
  k.seq_len = 9;
  k.chunk_steps = 9;
  CHECK(run_case(k));
}

TEST(layer_matches_plain_loops_for_lengths_and_chunks) {
  for_each_cell_and_way([&](Case k) {
    for (int64_t seq_len : {1, 2, 5, 11}) {
      for (int64_t chunk_steps : {1, 2, 100}) {
        for (Direction direction : kDirections) {
          for (int packed = 0; packed < 2; ++packed) {
            k.seq_len = seq_len;
            k.chunk_steps = chunk_steps;
            k.direction = direction;
            k.packed = packed;
            k.batch_size = 5;
            CHECK(run_case(k));
          }
        }
      }
    }
  });
}

// The gradient of weight_hh has room for the packed weight.
TEST(layer_matches_plain_loops_where_units_fill_the_panels) {
  for_each_cell_and_way([&](Case k) {
    if (k.weights == Weights::kInPlace) return;
    k.hidden_size = 32;
    if (k.proj_size > 0) k.proj_size = 32;
    k.seq_len = 3;
    for (DType dtype : kAllDTypes) {
      for (int64_t chunk_steps : {2, 3}) {
        for (int bits = 0; bits < 8; ++bits) {
          k.dtype = dtype;
          k.chunk_steps = chunk_steps;
          k.packed = bits & 1;
          k.reset = bits & 2;
          k.recompute = bits & 4 ? 1 : 0;
          k.batch_size = k.packed ? 7 : 3;
          CHECK(run_case(k));
        }
      }
    }
  });
}

TEST(layer_matches_plain_loops_with_resets_and_the_results_of_every_step) {
  for_each_cell_and_way([&](Case k) {
    for (DType dtype : kAllDTypes) {
      for (Direction direction : kDirections) {
        for (int bits = 0; bits < 8; ++bits) {
          k.dtype = dtype;
          k.direction = direction;
          k.seq_len = 7;
          k.chunk_steps = 3;
          k.batch_size = 5;
          k.reset = k.steps_c = k.grad_gates = true;
          k.packed = bits & 1;
          k.states = bits & 2;
          k.training = bits & 4;
          for (int padded = 0; padded <= (k.packed ? 1 : 0); ++padded) {
            k.padded = padded;
            CHECK(run_case(k));
          }
        }
      }
    }
  });
}

TEST(recomputation_changes_no_bit) {
  for_each_cell_and_way([&](Case k) {
    for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      for (Direction direction : kDirections) {
        for (int bits = 0; bits < 4; ++bits) {
          k.dtype = dtype;
          k.direction = direction;
          k.seq_len = 11;
          k.chunk_steps = 2;
          k.packed = bits & 1;
          k.reset = bits & 2;
          k.padded = k.reset;
          Run whole;
          k.recompute = 0;
          CHECK(run_case(k, &whole));
          for (int64_t recompute : {1, 3, 11, 100}) {
            Run parts;
            k.recompute = recompute;
            CHECK(run_case(k, &parts));
            for (size_t i = 0; i < whole.buffers.size(); ++i) {
              CHECK(whole.buffers[i].same_bits(parts.buffers[i]));
            }
          }
        }
      }
    }
  });
}

TEST(gradients_may_be_absent_or_accumulated) {
  for_each_cell_and_way([&](Case k) {
    for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      for (Direction direction : kDirections) {
        k.dtype = dtype;
        k.direction = direction;
        k.packed = true;
        k.padded = direction == Direction::kReverse;
        for (k.absent_grad = -1; k.absent_grad < kGradEnd; ++k.absent_grad) {
          k.accumulate = k.absent_grad == -1;
          CHECK(run_case(k));
        }
      }
    }
  });
}

TEST(nan_goes_on_in_time_and_stays_in_its_sequence) {
  for_each_cell_and_way([&](Case k) {
    k.batch_size = 7;
    k.nan_row = k.batch_size + 2;
    k.training = false;
    for (DType dtype : kAllDTypes) {
      k.dtype = dtype;
      CHECK(run_case(k));
    }
  });
}

TEST(subnormal_numbers_are_the_callers_own_again) {
  volatile float tiny = std::numeric_limits<float>::min();
  for_each_cell_and_way([&](const Case& k) {
    CHECK(run_case(k));
    CHECK(tiny / 4 > 0);
  });
}

TEST(empty_batch_and_empty_input_work) {
  for_each_cell_and_way([&](Case k) {
    k.input_size = 0;
    CHECK(run_case(k));
    k.batch_size = 0;
    CHECK(run_case(k));
    k.input_size = 3;
    CHECK(run_case(k));
  });
}

TEST(same_inputs_give_same_bits) {
  for_each_cell_and_way([&](Case k) {
    k.hidden_size = 41;
    k.batch_size = 9;
    k.proj_size = k.proj_size > 0 ? 23 : 0;
    Run first, second;
    const bool ran = run_case(k, &first) && run_case(k, &second);
    CHECK(ran);
    if (!ran) return;
    for (size_t i = 0; i < first.buffers.size(); ++i) {
      CHECK(first.buffers[i].same_bits(second.buffers[i]));
    }
  });
}

TEST(forcing_an_isa_returns_it_or_says_why_not) {
  Isa isa = Isa::kGeneric;
  for (Isa wanted : kAllIsas) {
    const Status status = select_isa(isa_name(wanted), &isa);
    CHECK(status.ok == isa_supported(wanted));
    if (status.ok) CHECK(isa == wanted);
    if (!status.ok) CHECK(std::strstr(status.message, "generic") != nullptr);
  }
  CHECK(!select_isa("sse9", &isa).ok);
  CHECK(select_isa(nullptr, &isa).ok && isa_supported(isa));
}

CHECK_MAIN()
