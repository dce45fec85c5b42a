// Enumerations and storage types shared by every layer.
#pragma once

#include <cstdint>

namespace fusedrnn {

enum class DType : int8_t { kFloat32, kFloat64, kBFloat16, kFloat16 };

// A cell's index in the list of cells/registry.h, which maps it to a struct and a name.
enum class CellKind : int8_t {};

enum class Direction : int8_t { kForward, kReverse };

// How a product takes an operand that is stored row by row.
enum class Transpose : int8_t { kNo, kYes };

// Instruction sets with a kernel table of their own, weakest first.
enum class Isa : int8_t { kGeneric, kAvx2, kAvx512 };

// 16-bit types are for storage: arithmetic happens in float, and math/pack.h converts.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// How the elements of a layer's weights are stored, biases apart: as those of its other tensors,
// or, of a float32 layer that is not trained, in fewer bytes.
enum class WeightFormat : int8_t {
  kSame,
  kBFloat16,
  kFloat16,
  kInt8,  // int8_t, times a float of its row
};

// The type that sums, states and gate mathematics use for a storage type.
template <class S>
struct Accum {
  using type = float;
};
template <>
struct Accum<double> {
  using type = double;
};
template <class S>
using accum_t = typename Accum<S>::type;

constexpr int64_t dtype_bytes(DType dtype) {
  return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
}
// Bytes of the accumulation type of `dtype`.
constexpr int64_t accum_bytes(DType dtype) { return dtype == DType::kFloat64 ? 8 : 4; }
// Bytes of an element of the weights of a layer of `dtype`.
constexpr int64_t weight_bytes(DType dtype, WeightFormat format) {
  return format == WeightFormat::kSame ? dtype_bytes(dtype) : format == WeightFormat::kInt8 ? 1 : 2;
}

}  // namespace fusedrnn
