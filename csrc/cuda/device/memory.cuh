// Global memory: read-only loads, plain loads and stores, relaxed accesses to what other blocks
// write at the same time, and conversion between storage and accumulation types. Kernels come to
// it by these functions alone, so that the simulator sees every access.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "common/types.h"
#include "cuda/device/packet.h"
#include "cuda/device/thread.cuh"
#include "math/scalar.h"

namespace fusedrnn {

// The unsigned integer of a type's size.
template <int kBytes>
struct BitsOf;
template <>
struct BitsOf<1> {
  using type = unsigned char;
};
template <>
struct BitsOf<2> {
  using type = unsigned short;
};
template <>
struct BitsOf<4> {
  using type = unsigned int;
};
template <>
struct BitsOf<8> {
  using type = unsigned long long;
};
template <class T>
using bits_t = typename BitsOf<static_cast<int>(sizeof(T))>::type;

// Loads of memory that nothing writes while the kernel runs, nor while it waits for the launch
// before (programmatic.cuh).
template <class T>
FUSEDRNN_DEV T ldg(const T* ptr) {
  return bit_cast<T>(__ldg(reinterpret_cast<const bits_t<T>*>(ptr)));
}
// ptr is a multiple of 16 bytes.
template <class T>
FUSEDRNN_DEV Packet<T> ldg_packet(const T* ptr) {
  return bit_cast<Packet<T>>(__ldg(reinterpret_cast<const uint4*>(ptr)));
}

// Plain accesses: a thread sees what it stored itself, and what launches before have stored, once
// it has waited for them. It sees what other threads of its block stored after a barrier.
template <class T>
FUSEDRNN_DEV T load_global(const T* ptr) {
  return *ptr;
}
// ptr is a multiple of 16 bytes, of what launches before have stored.
template <class T>
FUSEDRNN_DEV Packet<T> load_global_packet(const T* ptr) {
  uint4 bits;
  asm volatile("ld.global.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
               : "l"(__cvta_generic_to_global(ptr)));
  return bit_cast<Packet<T>>(bits);
}
template <class T>
FUSEDRNN_DEV void store_global(T* ptr, T value) {
  *ptr = value;
}

// Relaxed accesses at GPU scope: they see one another, and order nothing else. They are of 4 or 8
// bytes, and never torn.
template <class T>
FUSEDRNN_DEV T load_relaxed(const T* ptr) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "relaxed accesses are of 4 or 8 bytes");
  bits_t<T> bits;
  if constexpr (sizeof(T) == 4) {
    asm volatile("ld.relaxed.gpu.global.b32 %0, [%1];"
                 : "=r"(bits)
                 : "l"(__cvta_generic_to_global(ptr))
                 : "memory");
  } else {
    asm volatile("ld.relaxed.gpu.global.b64 %0, [%1];"
                 : "=l"(bits)
                 : "l"(__cvta_generic_to_global(ptr))
                 : "memory");
  }
  return bit_cast<T>(bits);
}
template <class T>
FUSEDRNN_DEV void store_relaxed(T* ptr, T value) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "relaxed accesses are of 4 or 8 bytes");
  const bits_t<T> bits = bit_cast<bits_t<T>>(value);
  if constexpr (sizeof(T) == 4) {
    asm volatile("st.relaxed.gpu.global.b32 [%0], %1;" ::"l"(__cvta_generic_to_global(ptr)),
                 "r"(bits)
                 : "memory");
  } else {
    asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(__cvta_generic_to_global(ptr)),
                 "l"(bits)
                 : "memory");
  }
}

// 16 bytes at once; a reader may see any of the four 4-byte words before the others.
template <class T>
FUSEDRNN_DEV Packet<T> load_relaxed_packet(const T* ptr) {
  uint4 bits;
  asm volatile("ld.relaxed.gpu.global.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(bits.x), "=r"(bits.y), "=r"(bits.z), "=r"(bits.w)
               : "l"(__cvta_generic_to_global(ptr))
               : "memory");
  return bit_cast<Packet<T>>(bits);
}
template <class T>
FUSEDRNN_DEV void store_relaxed_packet(T* ptr, const Packet<T>& packet) {
  const uint4 bits = bit_cast<uint4>(packet);
  asm volatile(
      "st.relaxed.gpu.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(ptr)),
      "r"(bits.x), "r"(bits.y), "r"(bits.z), "r"(bits.w)
      : "memory");
}

FUSEDRNN_DEV float to_accum(float value) { return value; }
FUSEDRNN_DEV double to_accum(double value) { return value; }
FUSEDRNN_DEV float to_accum(BFloat16 value) {
  return __uint_as_float(static_cast<unsigned>(value.bits) << 16);
}
FUSEDRNN_DEV float to_accum(Float16 value) { return __half2float(__ushort_as_half(value.bits)); }

// Rounds to nearest even; NaN stays NaN, overflow is infinite.
template <class S>
FUSEDRNN_DEV S from_accum(accum_t<S> value) {
  return value;
}
template <>
FUSEDRNN_DEV BFloat16 from_accum<BFloat16>(float value) {
  return BFloat16{__bfloat16_as_ushort(__float2bfloat16_rn(value))};
}
template <>
FUSEDRNN_DEV Float16 from_accum<Float16>(float value) {
  return Float16{__half_as_ushort(__float2half_rn(value))};
}

}  // namespace fusedrnn
