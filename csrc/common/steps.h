// Where the rows of each step of a sweep over time lie.
//
// A sweep runs over sweep steps s = 0 .. seq_len - 1; in reverse direction step s is time
// seq_len - 1 - s. Backward visits them from the last to the first.
#pragma once

#include <cstdint>

#include "common/macros.h"
#include "common/types.h"

namespace fusedrnn {

// Rows of the sequence, all of whole steps.
struct RowRange {
  int64_t first;
  int64_t count;
};

// All of it is inlined: see Note [ISA namespace].
struct Steps {
  const int64_t* offsets;  // [seq_len + 1] first row of each time, or null: batch_size rows each
  int64_t seq_len;
  int64_t batch_size;
  Direction direction;

  FUSEDRNN_HD int64_t time(int64_t s) const {
    return direction == Direction::kForward ? s : seq_len - 1 - s;
  }
  // First row of sweep step s.
  FUSEDRNN_HD int64_t row(int64_t s) const {
    return offsets != nullptr ? offsets[time(s)] : time(s) * batch_size;
  }
  // Rows of sweep step s; none outside of the sweep.
  FUSEDRNN_HD int64_t rows(int64_t s) const {
    if (s < 0 || s >= seq_len) return 0;
    return offsets != nullptr ? offsets[time(s) + 1] - offsets[time(s)] : batch_size;
  }
};

}  // namespace fusedrnn
