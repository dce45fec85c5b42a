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
    : seq_len_(layer.seq_len),
      batch_size_(layer.batch_size),
      places_(layer.batch_size, -1),
      offsets_(layer.seq_len + 1, 0) {
  const int64_t* lengths = layer.sequence.lengths->const_data_ptr<int64_t>();
  lengths_.assign(lengths, lengths + batch_size_);
  std::vector<int64_t> order(batch_size_);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return lengths_[a] > lengths_[b]; });
  while (!order.empty() && lengths_[order.back()] == 0) order.pop_back();
  order_ = at::empty({static_cast<int64_t>(order.size())}, at::kLong);
  std::copy(order.begin(), order.end(), order_.mutable_data_ptr<int64_t>());
  for (size_t place = 0; place < order.size(); ++place) {
    places_[order[place]] = static_cast<int64_t>(place);
  }
  size_t rows = order.size();
  for (int64_t t = 0; t < seq_len_; ++t) {
    while (rows > 0 && lengths_[order[rows - 1]] <= t) --rows;
    offsets_[t + 1] = offsets_[t] + static_cast<int64_t>(rows);
  }
}

CheckedLayer Packing::pack(const CheckedLayer& layer) const {
  CheckedLayer packed = layer;
  const int64_t longest = order_.numel() == 0 ? 0 : lengths_[order_.const_data_ptr<int64_t>()[0]];
  const Tensor batch_sizes = at::empty({longest}, at::kLong);
  for (int64_t t = 0; t < longest; ++t) {
    batch_sizes.mutable_data_ptr<int64_t>()[t] = offsets_[t + 1] - offsets_[t];
  }
  packed.seq_len = longest;
  packed.batch_size = order_.numel();
  packed.total_rows = offsets_.back();
  packed.sequence = {batch_sizes, std::nullopt, std::nullopt};
  if (layer.sequence.reset.has_value()) {
    packed.sequence.reset = gather(layer.sequence.reset->unsqueeze(-1)).squeeze(-1);
  }
  packed.tensors[kInput] = gather(*layer.tensors[kInput]);
  for (int place : {kH0, kC0, kResetH, kResetC}) {
    OptionalTensor& state = packed.tensors[place];
    if (state.has_value()) state = select(*state);
  }
  return packed;
}

template <class Body>
void Packing::for_each_row(const Body& body) const {
  at::parallel_for(0, seq_len_, 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t b = 0; b < batch_size_; ++b) {
        body(t < lengths_[b] ? offsets_[t] + places_[b] : -1, t * batch_size_ + b);
      }
    }
  });
}

Tensor Packing::gather(const Tensor& padded) const {
  at::DimVector shape(padded.sizes().slice(0, padded.dim() - 3));
  const int64_t parts = c10::multiply_integers(shape);
  shape.append({offsets_.back(), padded.size(-1)});
  Tensor packed = at::empty(shape, padded.options());
  const int64_t row_bytes = padded.size(-1) * padded.element_size();
  const char* from = static_cast<const char*>(padded.const_data_ptr());
  char* to = static_cast<char*>(packed.mutable_data_ptr());
  for (int64_t part = 0; part < parts; ++part) {
    for_each_row([&](int64_t packed_row, int64_t padded_row) {
      if (packed_row < 0) return;
      std::memcpy(to + packed_row * row_bytes, from + padded_row * row_bytes,
                  static_cast<size_t>(row_bytes));
    });
    from += seq_len_ * batch_size_ * row_bytes;
    to += offsets_.back() * row_bytes;
  }
  return packed;
}

void Packing::scatter(const Tensor& packed, const Tensor& padded) const {
  const int64_t parts = c10::multiply_integers(padded.sizes().slice(0, padded.dim() - 3));
  const int64_t row_bytes = padded.size(-1) * padded.element_size();
  const char* from = static_cast<const char*>(packed.const_data_ptr());
  char* to = static_cast<char*>(padded.mutable_data_ptr());
  for (int64_t part = 0; part < parts; ++part) {
    for_each_row([&](int64_t packed_row, int64_t padded_row) {
      char* row = to + padded_row * row_bytes;
      if (packed_row < 0) {
        std::memset(row, 0, static_cast<size_t>(row_bytes));
      } else {
        std::memcpy(row, from + packed_row * row_bytes, static_cast<size_t>(row_bytes));
      }
    });
    from += offsets_.back() * row_bytes;
    to += seq_len_ * batch_size_ * row_bytes;
  }
}

Tensor Packing::select(const Tensor& states) const { return at::index_select(states, 1, order_); }

void Packing::place(const Tensor& packed, const OptionalTensor& others,
                    const Tensor& states) const {
  if (others.has_value()) {
    states.copy_(*others);
  } else {
    states.zero_();
  }
  states.index_copy_(1, order_, packed);
}

}  // namespace fusedrnn
