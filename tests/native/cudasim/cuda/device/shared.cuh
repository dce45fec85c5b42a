// The simulator's twin of csrc/cuda/device/shared.cuh: every access is checked, and a thread may
// lose its turn at it.
#pragma once

#include <cstdint>
#include <cstring>

#include "access.h"
#include "cuda/device/packet.h"
#include "cuda/device/thread.cuh"

namespace fusedrnn {

template <class T>
class Shared {
  static_assert(sizeof(T) >= 2, "the simulator follows races in units of 2 bytes");

 public:
  explicit Shared(int64_t byte_offset) : byte_offset_(byte_offset) {}

  T load(int64_t i) const { return read<T>(i); }
  void store(int64_t i, T value) const { write(i, value); }
  Packet<T> load_packet(int64_t i) const { return read<Packet<T>>(i); }
  void store_packet(int64_t i, const Packet<T>& packet) const { write(i, packet); }

  Shared offset(int64_t i) const { return Shared(address(i)); }
  template <class U>
  Shared<U> as() const {
    return Shared<U>(byte_offset_);
  }

  // Offset in bytes from the start of the block's shared memory.
  int64_t address(int64_t i) const { return byte_offset_ + i * static_cast<int64_t>(sizeof(T)); }

 private:
  template <class V>
  V read(int64_t i) const {
    V value;
    std::memcpy(&value, cudasim::access_shared(cudasim::Access::kRead, address(i), sizeof(V)),
                sizeof(V));
    return value;
  }
  template <class V>
  void write(int64_t i, const V& value) const {
    std::memcpy(cudasim::access_shared(cudasim::Access::kWrite, address(i), sizeof(V)), &value,
                sizeof(V));
  }

  int64_t byte_offset_;
};

template <class T>
Shared<T> shared_memory(int64_t byte_offset) {
  return Shared<T>(byte_offset);
}

}  // namespace fusedrnn
