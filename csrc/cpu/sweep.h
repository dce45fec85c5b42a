// What the kernels of a sweep over time are given: the arguments of the layer, and the
// buffers that the drivers keep for it.
//
// S is the storage type, A its accumulation type, H hidden_size, P output size, G gates.
#pragma once

#include <atomic>
#include <cstdint>

#include "common/args.h"
#include "common/steps.h"
#include "plan/cpu_plan.h"

namespace fusedrnn {

// The matrix products inside a sweep; persistent packs the weight of each.
enum class SweepProduct : int8_t {
  kGates,          // h * weight_hh^T
  kInputs,         // input * weight_ih^T, where the sweep multiplies it as well
  kProjected,      // h before the projection * weight_hr^T
  kGradHidden,     // gradient of the gates * weight_hh
  kGradProjected,  // gradient of h * weight_hr
};

// The type that the elements of packed weights have: A, or for few rows S, which has fewer bytes
// to read in every step.
enum class PanelElement : int8_t { kAccum, kStorage };

// What the threads of a persistent region know of one of them. The parts are on cache lines
// of their own, pairwise, as lines are fetched in pairs.
struct TeamSlot {
  std::atomic<int64_t> arrived;  // barriers this thread has come to
  char padding_arrived[120];
  std::atomic<int64_t> taken[2];  // panels taken of its list, in even and odd products
  char padding_taken[112];
};

// Where a step's `row` is among the rows of that step in a tensor of the caller, by
// LayerShape::order.
FUSEDRNN_HD int64_t ordered_row(const int64_t* order, int64_t row) {
  return order != nullptr ? order[row] : row;
}

// Where the rows of each step lie: one after the other in what the kernels keep for themselves, and
// in the tensors of the caller as LayerShape says.
struct SweepSteps : Steps {
  const int64_t* order;
  int64_t padded_rows;

  // The row of a tensor of the caller with which sweep step s begins.
  FUSEDRNN_HD int64_t caller_row(int64_t s) const {
    return order != nullptr ? time(s) * padded_rows : row(s);
  }
  FUSEDRNN_HD int64_t caller_row(int64_t s, int64_t row) const {
    return caller_row(s) + ordered_row(order, row);
  }

  // The first row of part `part` of `parts`, each of which has rows of its own with about as many
  // steps among [begin, end) as the others: where sequences differ in length, the first of them
  // have more.
  FUSEDRNN_HD int64_t first_row_of(int64_t part, int64_t parts, int64_t begin, int64_t end) const {
    if (offsets == nullptr || part == parts) return batch_size * part / parts;
    const bool forward = direction == Direction::kForward;
    const int64_t first = forward ? begin : seq_len - end;
    int64_t last = forward ? end : seq_len - begin;  // times that have the row are [first, last)
    const int64_t wanted = (offsets[last] - offsets[first]) * part / parts;
    int64_t row = 0;
    for (int64_t found = 0; row < batch_size; ++row) {
      while (last > first && offsets[last] - offsets[last - 1] <= row) --last;
      if (found + (last - first) / 2 >= wanted) break;
      found += last - first;
    }
    return row;
  }
};

// Leaves the core to others for a moment. It sleeps: after a yield, a process that keeps the core
// busy has it for milliseconds, but a thread that slept is let in again as soon as it wakes. It is
// not in isa/: see Note [ISA namespace].
void rest_thread();

struct ForwardSweep {
  const LayerForwardArgs* args;
  SweepSteps steps;
  int64_t begin, end;  // sweep steps of this chunk
  int64_t first_row;   // the row of the sequence that row 0 of input and gx is
  const void* bias_x;  // A [G * H], bias of the input side; without kSplit of both sides
  const void* bias_r;  // A [G * H], bias of the recurrent side; zeros without kSplit
  const void* params;  // A [kParams * H], of cells with such
  const void* input;   // A [rows of the chunk, I], where the sweep multiplies it
  void* gx;            // A [rows of the chunk, G * H], input side without bias; may lie in
                       // `saved`; null where the sweep multiplies the input
  int64_t gx_row_stride;
  void* output;  // S, as in args, or scratch
  int64_t output_row_stride;
  bool output_is_scratch;    // with the rows of the sequence one after the other
  int64_t output_first_row;  // the row of the sequence that row 0 of the scratch is
  void* saved;               // S, as in args, or scratch; null: nothing is saved
  int64_t saved_first_row;   // the row of the sequence that row 0 of saved is
  void* h[2];  // A [batch_size, h_row_stride]; step s reads h[s & 1], writes the other
  int64_t h_row_stride;
  void* c;                // A [batch_size, H], cells with c
  void* h_raw;            // A [batch_size, H], h before the projection; null without
  const void* product;    // per_step: A [batch_size, G * H], recurrent side; null: added to gx
  const void* projected;  // per_step: A [batch_size, P], h_raw * weight_hr^T
  // persistent only
  PanelElement panel_element;
  const void* packed_ih;  // panels of weight_ih; null: gx holds the product
  const void* packed_hh;  // panels of weight_hh; null, as all of them: direct_sweeps
  const void* packed_hr;  // panels of weight_hr
  TeamSlot* team;         // one a thread, zero before each region
  Split split;
  bool descending;  // weights in place: in the steps 0, 2, ... instead of 1, 3, ...
};

struct BackwardSweep {
  const LayerBackwardArgs* args;
  SweepSteps steps;
  int64_t begin, end;       // sweep steps of this chunk, run from end - 1 down to begin
  int64_t first_row;        // the row of the sequence that row 0 of dgx, dgr and dh is
  const void* saved;        // S, as in args, or scratch
  int64_t saved_first_row;  // the row of the sequence that row 0 of saved is
  void* dgx;                // A [rows of the chunk, G * H], gradient of the input side
  void* dgr;              // A [rows of the chunk, G * H], of the recurrent side; dgx without kSplit
  const void* params;     // A [kParams * H], of cells with such
  void* dparams;          // A [rows of the chunk, kParams * H], or null
  const void* dgr_end;    // A [rows(end), G * H], dgr of step `end`, which was visited before
  void* dh;               // A [rows of the chunk, P], gradient of projected h; null without
  void* carry;            // A [batch_size, P], part of dh that does not flow through dgr
  void* dc;               // A [batch_size, H], cells with c
  void* dreset_h;         // A [batch_size, P], sum of the gradients of reset_h; null without reset
  void* dreset_c;         // A [batch_size, H]
  const void* product;    // per_step: A [batch_size, P], dgr of the step after * weight_hh
  const void* projected;  // per_step: A [batch_size, H], dh * weight_hr
  // persistent only
  PanelElement panel_element;
  const void* packed_hh;  // panels of weight_hh
  const void* packed_hr;  // panels of weight_hr
  TeamSlot* team;         // one a thread, zero before each region
  Split split;
};

}  // namespace fusedrnn
