// Padded sequences of several lengths as packed ones: the rows of each step that a sequence still
// has, sequences in order of falling length. The kernels of the CPU see no row that has ended, and
// read and write those that there are where they lie.
#pragma once

#include <vector>

#include "bindings/checks.h"

namespace fusedrnn {

class Packing {
 public:
  // Of a layer with lengths, on the CPU.
  explicit Packing(const CheckedLayer& layer);

  // The same layer, packed; its states are copies. Sequences of length 0 are not in it.
  CheckedLayer pack(const CheckedLayer& layer) const;

  // Zeros in the rows of a tensor [..., T, B, W] beyond a length.
  void clear_padding(const Tensor& padded) const;

  // [D, B, W] to the same of the packed sequences.
  Tensor select(const Tensor& states) const;
  // The way back; those of length 0 come from `others`, or are zeros.
  void scatter(const Tensor& packed, const OptionalTensor& others, const Tensor& states) const;

 private:
  int64_t seq_len_, batch_size_;  // padded
  std::vector<int64_t> lengths_;
  Tensor order_;  // int64 [packed sequences]: which sequence each is
};

}  // namespace fusedrnn
