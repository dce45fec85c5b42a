// Padded sequences of several lengths as packed ones: the rows of each step that a sequence still
// has, sequences in order of falling length. So the kernels see no row that has ended.
#pragma once

#include <vector>

#include "bindings/checks.h"

namespace fusedrnn {

class Packing {
 public:
  // Of a layer with lengths, on the CPU.
  explicit Packing(const CheckedLayer& layer);

  // The same layer, packed. Sequences of length 0 are not in it.
  CheckedLayer pack(const CheckedLayer& layer) const;

  // [..., T, B, W] to [..., N, W].
  Tensor gather(const Tensor& padded) const;
  // The way back; rows beyond a length are zeros.
  void scatter(const Tensor& packed, const Tensor& padded) const;

  // [D, B, W] to the same of the packed rows.
  Tensor select(const Tensor& states) const;
  // The way back; those of length 0 come from `others`, or are zeros.
  void place(const Tensor& packed, const OptionalTensor& others, const Tensor& states) const;

 private:
  // Calls body(row of the packed sequence, row of the padded one) for every row, and
  // body(-1, row) for those beyond a length; in parallel over time.
  template <class Body>
  void for_each_row(const Body& body) const;

  int64_t seq_len_, batch_size_;  // padded
  std::vector<int64_t> places_;   // of each sequence among the packed ones, or -1
  std::vector<int64_t> offsets_;  // first packed row of each step, and the number of rows
  std::vector<int64_t> lengths_;
  Tensor order_;  // int64 [packed sequences]: which sequence each is
};

}  // namespace fusedrnn
