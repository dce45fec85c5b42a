// A weight matrix in a format of its own, as the kernels are given it.
#pragma once

#include <cmath>
#include <memory>

#include "common/args.h"
#include "layer_oracle.h"

namespace oracle {

class StoredWeight {
 public:
  // Stores values [rows, cols], and rounds them to what is then stored.
  StoredWeight(WeightFormat format, int64_t rows, int64_t cols, Doubles* values)
      : format_(format),
        floats_(format == WeightFormat::kFloat16 ? DType::kFloat16 : DType::kBFloat16, *values) {
    const auto count = static_cast<int64_t>(values->size());
    if (format == WeightFormat::kInt8) {
      bytes_.reset(new int8_t[count]);
      scales_.reset(new float[rows]);
      for (int64_t row = 0; row < rows; ++row) {
        scales_[row] = 0.001f * static_cast<float>(1 + row % 7);
      }
      for (int64_t i = 0; i < count; ++i) {
        const float scale = scales_[i / cols];
        bytes_[i] = static_cast<int8_t>(std::fmax(-127, std::fmin(127, (*values)[i] / scale)));
        (*values)[i] = static_cast<double>(bytes_[i]) * scale;
      }
    } else {
      for (int64_t i = 0; i < count; ++i) (*values)[i] = floats_.get(i);
    }
  }

  const void* data() { return format_ == WeightFormat::kInt8 ? bytes_.get() : floats_.data(); }
  const float* scales() const { return scales_.get(); }

 private:
  WeightFormat format_;
  Buffer floats_;
  std::unique_ptr<int8_t[]> bytes_;  // exactly as many, as those of Buffer
  std::unique_ptr<float[]> scales_;  // [rows]; null unless kInt8
};

// The weights of a case, or null where all have its dtype. Rounds those of the problem.
class StoredWeights {
 public:
  StoredWeights(WeightFormat format, const LayerCase& k, Numbers* problem) : format_(format) {
    if (format == WeightFormat::kSame) return;
    const int64_t rows = k.gates() * k.hidden_size;
    weight_ih_ = store(rows, k.input_size, &problem->inputs[kWeightIh]);
    weight_hh_ = store(rows, k.output_size(), &problem->inputs[kWeightHh]);
    if (k.proj_size > 0) {
      weight_hr_ = store(k.proj_size, k.hidden_size, &problem->inputs[kWeightHr]);
    }
  }

  void set(LayerWeights* weights) const {
    if (format_ == WeightFormat::kSame) return;
    weights->format = format_;
    weights->weight_ih = weight_ih_->data();
    weights->weight_hh = weight_hh_->data();
    weights->scale_ih = weight_ih_->scales();
    weights->scale_hh = weight_hh_->scales();
    if (weight_hr_ == nullptr) return;
    weights->weight_hr = weight_hr_->data();
    weights->scale_hr = weight_hr_->scales();
  }

 private:
  std::unique_ptr<StoredWeight> store(int64_t rows, int64_t cols, Doubles* values) const {
    return std::make_unique<StoredWeight>(format_, rows, cols, values);
  }

  WeightFormat format_;
  std::unique_ptr<StoredWeight> weight_ih_, weight_hh_, weight_hr_;
};

}  // namespace oracle
