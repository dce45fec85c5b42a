// The simulator's twin of csrc/cuda/device/memory.cuh.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/types.h"
#include "cuda/device/packet.h"
#include "cuda/device/thread.cuh"
#include "global_memory.h"
#include "math/half.h"
#include "scheduler.h"

namespace fusedrnn {

template <class T>
FUSEDRNN_DEV T ldg(const T* ptr) {
  cudasim::check_load(cudasim::GlobalLoad::kReadOnly, ptr, sizeof(T));
  return *ptr;
}
template <class T>
FUSEDRNN_DEV Packet<T> packet_at(const T* ptr) {
  if (reinterpret_cast<uintptr_t>(ptr) % sizeof(Packet<T>) != 0) {
    cudasim::fail("a packet at a misaligned address");
  }
  Packet<T> packet;
  std::memcpy(&packet, ptr, sizeof(packet));
  return packet;
}
template <class T>
FUSEDRNN_DEV Packet<T> ldg_packet(const T* ptr) {
  cudasim::check_load(cudasim::GlobalLoad::kReadOnly, ptr, sizeof(Packet<T>));
  return packet_at(ptr);
}

template <class T>
FUSEDRNN_DEV T load_global(const T* ptr) {
  cudasim::check_load(cudasim::GlobalLoad::kPlain, ptr, sizeof(T));
  return *ptr;
}
template <class T>
FUSEDRNN_DEV Packet<T> load_global_packet(const T* ptr) {
  cudasim::check_load(cudasim::GlobalLoad::kPlain, ptr, sizeof(Packet<T>));
  return packet_at(ptr);
}
template <class T>
FUSEDRNN_DEV void store_global(T* ptr, T value) {
  cudasim::store_plain(ptr, &value, sizeof(T));
}

// A relaxed store arrives some time later, and the storing thread sees it no sooner than others.
// Stores to one address arrive in order.
template <class T>
FUSEDRNN_DEV T load_relaxed(const T* ptr) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "relaxed accesses are of 4 or 8 bytes");
  cudasim::yield_polling(ptr);
  return *ptr;
}
template <class T>
FUSEDRNN_DEV void store_relaxed(T* ptr, T value) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "relaxed accesses are of 4 or 8 bytes");
  cudasim::store_late(ptr, &value, sizeof(T));
}
// A packet is loaded and stored word by word.
template <class T>
FUSEDRNN_DEV Packet<T> load_relaxed_packet(const T* ptr) {
  cudasim::yield_polling(ptr);
  return packet_at(ptr);
}
template <class T>
FUSEDRNN_DEV void store_relaxed_packet(T* ptr, const Packet<T>& packet) {
  uint32_t words[4];
  std::memcpy(words, &packet, sizeof(words));
  for (int i = 0; i < 4; ++i) {
    cudasim::store_late(reinterpret_cast<char*>(ptr) + 4 * i, &words[i], sizeof(words[i]));
  }
}

FUSEDRNN_DEV float to_accum(float value) { return value; }
FUSEDRNN_DEV double to_accum(double value) { return value; }
FUSEDRNN_DEV float to_accum(BFloat16 value) { return to_float(value); }
FUSEDRNN_DEV float to_accum(Float16 value) { return to_float(value); }

template <class S>
FUSEDRNN_DEV S from_accum(accum_t<S> value) {
  return from_float<S>(value);
}
template <>
FUSEDRNN_DEV double from_accum<double>(double value) {
  return value;
}

}  // namespace fusedrnn
