#include "bindings/packing.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_copy.h>
#include <ATen/ops/index_select.h>

#include <algorithm>
#include <cstring>
#include <numeric>

namespace fusedrnn {

Packing::Packing(const CheckedLayer& layer)
    : seq_len_(layer.seq_len), batch_size_(layer.batch_size) {
  const int64_t* lengths = layer.sequence.lengths->const_data_ptr<int64_t>();
  lengths_.assign(lengths, lengths + batch_size_);
  std::vector<int64_t> order(batch_size_);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return lengths_[a] > lengths_[b]; });
  while (!order.empty() && lengths_[order.back()] == 0) order.pop_back();
  order_ = at::empty({static_cast<int64_t>(order.size())}, at::kLong);
  std::copy(order.begin(), order.end(), order_.mutable_data_ptr<int64_t>());
}

CheckedLayer Packing::pack(const CheckedLayer& layer) const {
  CheckedLayer packed = layer;
  const int64_t* order = order_.const_data_ptr<int64_t>();
  int64_t rows = order_.numel();
  packed.seq_len = rows > 0 ? lengths_[order[0]] : 0;
  packed.batch_size = rows;
  packed.total_rows = 0;
  packed.order = order_;
  packed.padded_rows = batch_size_;
  const Tensor batch_sizes = at::empty({packed.seq_len}, at::kLong);
  for (int64_t t = 0; t < packed.seq_len; ++t) {
    while (lengths_[order[rows - 1]] <= t) --rows;
    batch_sizes.mutable_data_ptr<int64_t>()[t] = rows;
    packed.total_rows += rows;
  }
  packed.sequence = {batch_sizes, std::nullopt, layer.sequence.reset};
  for (int place : {kH0, kC0, kResetH, kResetC}) {
    OptionalTensor& state = packed.tensors[place];
    if (state.has_value()) state = select(*state);
  }
  return packed;
}

void Packing::clear_padding(const Tensor& padded) const {
  const int64_t step_bytes = batch_size_ * padded.size(-1) * padded.element_size();
  const int64_t row_bytes = padded.size(-1) * padded.element_size();
  auto* const data = static_cast<char*>(padded.mutable_data_ptr());
  const int64_t steps = c10::multiply_integers(padded.sizes().slice(0, padded.dim() - 2));
  at::parallel_for(0, steps, 1, [&](int64_t begin, int64_t end) {
    for (int64_t step = begin; step < end; ++step) {
      for (int64_t b = 0; b < batch_size_; ++b) {
        if (step % seq_len_ < lengths_[b]) continue;
        std::memset(data + step * step_bytes + b * row_bytes, 0, static_cast<size_t>(row_bytes));
      }
    }
  });
}

Tensor Packing::select(const Tensor& states) const { return at::index_select(states, 1, order_); }

void Packing::scatter(const Tensor& packed, const OptionalTensor& others,
                      const Tensor& states) const {
  if (others.has_value()) {
    states.copy_(*others);
  } else {
    states.zero_();
  }
  states.index_copy_(1, order_, packed);
}

}  // namespace fusedrnn
