// The forward pass over one direction of a layer, from the start or from a step in between.
#pragma once

#include "cpu/conversions.h"
#include "cpu/cpu_layer.h"
#include "cpu/multiplier.h"

namespace fusedrnn {

// Sweep steps [begin, end) to run again, what the state before them was, and where to leave what
// the forward pass would have saved.
struct Rerun {
  int64_t begin, end;
  const void* output;         // S, of the whole sequence, as the forward pass wrote it
  int64_t output_row_stride;  // elements
  const void* c;              // A [batch_size, H], c entering step `begin`; of step 0: not read
  void* saved;                // S [rows, saved_width, H]
  int64_t saved_first_row;    // the row of the sequence that row 0 of saved is
};

class ForwardPass {
 public:
  ForwardPass(const LayerForwardArgs& args, const Plan& plan, const KernelTable& table,
              CpuRuntime& runtime);

  void run();
  // Is called instead of run, any number of times, and gives the same numbers as run, bit by bit.
  void rerun(const Rerun& part);

 private:
  void prepare();
  void prepare_gx();
  void load_states();
  void continue_from(const Rerun& part);
  void reset_row(int64_t s, int64_t row, void* h) const;
  void run_steps(int64_t begin, int64_t end);
  void load_input();
  void step(int64_t s);
  void finish();
  bool is_direct() const { return layer_.plan.weights == Weights::kInPlace; }

  const LayerForwardArgs& args_;
  CpuLayer layer_;
  Conversions conversions_;
  Multiplier multiplier_;
  ForwardSweep sweep_{};
  bool multiplies_input_ = false;  // the sweep does
  bool gx_in_saved_ = false;
  void* gx_ = nullptr;          // A [rows of the chunk, G * H], where it is not in `saved`
  void* input_copy_ = nullptr;  // A [rows of the chunk, I]
  Operand weight_ih_{};
  const void* weight_hh_ = nullptr;  // per_step: weights as A
  const void* weight_hr_ = nullptr;
  void* product_ = nullptr;
  void* projected_ = nullptr;
};

}  // namespace fusedrnn
