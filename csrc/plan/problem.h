// What is to be computed, as far as a schedule's choice depends on it.
#pragma once

#include <cstdint>

#include "common/types.h"

namespace fusedrnn {

struct Problem {
  CellKind cell;
  DType dtype;
  int64_t seq_len;
  int64_t batch_size;
  int64_t total_rows;  // rows over all steps; seq_len * batch_size unless packed
  int64_t input_size;
  int64_t hidden_size;
  int64_t proj_size;                          // 0 without projection
  int directions;                             // 1 or 2
  bool training;                              // backward will be asked for, or this is the backward
  bool packed;                                // steps have rows of their own: batch_sizes are given
  WeightFormat format = WeightFormat::kSame;  // of the weights
  int64_t chunk_bytes = 0;  // that input projections may take at once; 0: as the planner likes

  int64_t output_size() const { return proj_size > 0 ? proj_size : hidden_size; }
};

}  // namespace fusedrnn
