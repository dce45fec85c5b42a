// h before it is projected, of all rows of a chunk at once, from what forward saved. Arguments are
// those of cuda_kernel_table.h.
#pragma once

#include "cuda/schedules/rows.cuh"

namespace fusedrnn {

template <template <class> class Cell, class S>
struct Unprojected {
  using Args = UnprojectedArgs;
  using A = accum_t<S>;
  static constexpr const char* kName = "h before its projection";
  static constexpr int kMaxThreads = kRowThreads;

  static FUSEDRNN_DEV void run(const Args& args) {
    using Step = CellStep<Cell, S>;
    using C = typename Step::C;
    const int64_t idx = flat_idx(), hidden_size = args.hidden_size;
    if (idx >= args.rows * hidden_size) return;
    if (is_padding(args.padding, idx / hidden_size)) {
      store_at<S>(args.dst, idx, A(0));
      return;
    }
    const int64_t first = idx / hidden_size * Step::kSavedWidth * hidden_size + idx % hidden_size;
    Values<A, C::kSaved> saved;
    Values<A, C::kStates> next;
    for (int k = 0; k < C::kSaved; ++k) saved[k] = load_at<S>(args.saved, first + k * hidden_size);
    for (int k = 1; k < C::kStates; ++k) {
      next[k] = load_at<S>(args.saved, first + (C::kSaved + k - 1) * hidden_size);
    }
    store_at<S>(args.dst, idx, C::hidden(saved, next));
  }
};

}  // namespace fusedrnn
