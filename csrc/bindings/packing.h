// Padded sequences of several lengths as packed ones: the rows of each step that a sequence still
// has, sequences in order of falling length. The kernels of the CPU see no row that has ended, and
// read and write those that there are where they lie.
#pragma once

#include <vector>

#include "bindings/checks.h"

namespace fusedrnn {

class Packing {
 public:
  // The layer has lengths and is on the CPU.
  explicit Packing(const CheckedLayer& layer);

  // Returns the layer packed, with copies of its states and without sequences of length 0.
  CheckedLayer pack(const CheckedLayer& layer) const;

  // Writes zeros into the rows of a tensor [..., T, B, W] that are beyond a length.
  void clear_padding(const Tensor& padded) const;

  // Selects those of the packed sequences from states [D, B, W].
  Tensor select(const Tensor& states) const;
  // Copies states of the packed sequences to where they are in `states`; those of sequences of
  // length 0 come from `others`, or are zeros.
  void scatter(const Tensor& packed, const OptionalTensor& others, const Tensor& states) const;

 private:
  int64_t seq_len_, batch_size_;  // padded
  std::vector<int64_t> lengths_;
  Tensor order_;  // int64 [packed sequences]: which sequence each is
};

}  // namespace fusedrnn
