// Rows and states of the caller as the kernels take them, and the way back: of another type, or
// elsewhere in memory.
#pragma once

#include "cpu/cpu_layer.h"

namespace fusedrnn {

class Conversions {
 public:
  explicit Conversions(CpuLayer& layer) : layer_(layer) {}

  // src of type S as A: src itself where they are the same, else a converted copy in
  // `copy`, or in new scratch if that is null. Contiguous; null stays null.
  const void* as_accum(const void* src, int64_t rows, int64_t cols, void* copy = nullptr);
  // The rows of sweep steps [begin, end) of src [rows of the sequence, cols] of the caller as A,
  // contiguous: src's own where they lie so, else in `copy`.
  const void* load_steps(const void* src, int64_t begin, int64_t end, int64_t cols, void* copy);
  // Stores contiguous rows of A as the rows of those sweep steps in dst of the caller, or adds
  // them.
  void store_steps(const void* src, int64_t begin, int64_t end, int64_t cols, bool accumulate,
                   void* dst) const;
  // Whether the rows of the caller are as load_steps gives them.
  bool rows_are_accum() const { return layer_.is_accum && layer_.steps.order == nullptr; }
  // dst = src as A, contiguous, or zeros if src is null.
  void load_state(const void* src, int64_t rows, int64_t cols, void* dst) const;
  // A copy of src as A, contiguous, in new scratch; zeros if src is null.
  void* load_state(const void* src, int64_t rows, int64_t cols);

 private:
  CpuLayer& layer_;
};

}  // namespace fusedrnn
