// Every argument of the operators that run layers is checked here, before any work, so that
// the kernels may trust what they are given.
#pragma once

#include "bindings/schema.h"
#include "cells/registry.h"
#include "common/args.h"

namespace fusedrnn {

// The cell of that name, and the dtype as the kernels name it; raise when there is none.
const CellInfo& check_cell(std::string_view name);
DType check_dtype(const char* name, at::ScalarType dtype);
// Raises where 64 bits are too few for the sizes of a layer's buffers.
void check_buffers(int64_t seq_len, int64_t batch_size, int64_t input_size, int64_t hidden_size);

// A checked layer. Its tensors are contiguous and of one device and, but for weights in a format of
// their own, of one dtype; those of an absent direction or optional argument stay empty.
struct CheckedLayer {
  CellInfo cell;
  DType dtype;
  int directions;
  int64_t seq_len;      // T
  int64_t batch_size;   // B
  int64_t total_rows;   // N
  int64_t input_size;   // I
  int64_t hidden_size;  // H
  int64_t proj_size;    // 0 without projection
  int64_t recompute;    // 0: backward recomputes nothing; at most seq_len
  bool is_composed;     // no kernel takes it: it runs as a composition of torch operators
  LayerTensors tensors;
  WeightFormat format = WeightFormat::kSame;
  WeightScales scales;
  Sequence sequence;
  OptionalTensor order;     // packed by Packing: as in LayerShape
  int64_t padded_rows = 0;  // with order

  int64_t output_size() const { return proj_size > 0 ? proj_size : hidden_size; }

  at::DimVector output_shape() const;             // [T, B, D * P] or [N, D * P]
  at::DimVector h_shape() const;                  // [D, B, P]
  at::DimVector c_shape() const;                  // [D, B, H], or [0] for a cell without c
  at::DimVector rows_shape(int64_t width) const;  // [D, T, B, width] or [D, N, width]
  at::DimVector saved_shape() const;
  at::ScalarType saved_dtype() const;

  const OptionalTensor& weight(int direction, DirectionWeight weight) const {
    return tensors[weight_place(direction, weight)];
  }
};

// Raises when an argument does not fit; the message names it, what was expected, what was found.
// Values of lengths are checked on the CPU; on other devices, where that would wait for them, only
// if the environment variable FUSEDRNN_DEBUG is 1.
enum class Means { kKernels, kComposition };  // of a device; complex numbers have no kernels
CheckedLayer check_layer(LayerPlaces&& places, int64_t recompute, Means means = Means::kKernels);

// Checks a layer with quantized weights, as check_layer does others.
CheckedLayer check_quantized_layer(const LayerGiven& given);
// The format of weights of that dtype in a float32 layer.
WeightFormat check_format(const char* name, at::ScalarType dtype);

// What layer_backward is given besides the layer; check_grads makes each tensor contiguous.
struct CheckedGrads {
  OutputGrads grads;
  Tensor output;
  Tensor saved;
};
CheckedGrads check_grads(const CheckedLayer& layer, const BackwardArgs& args);

}  // namespace fusedrnn
