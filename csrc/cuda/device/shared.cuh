// Typed views of the block's dynamic shared memory: the only way to it, so that the simulator
// sees every access.
#pragma once

#include <cstdint>

#include "cuda/device/packet.h"
#include "cuda/device/thread.cuh"

namespace fusedrnn {

// Elements have at least 2 bytes. Indices and offsets are in elements.
template <class T>
class Shared {
  static_assert(sizeof(T) >= 2, "the simulator follows races in units of 2 bytes");

 public:
  FUSEDRNN_DEV explicit Shared(T* ptr) : ptr_(ptr) {}

  FUSEDRNN_DEV T load(int64_t i) const { return ptr_[i]; }
  FUSEDRNN_DEV void store(int64_t i, T value) const { ptr_[i] = value; }

  // Elements i .. i + Packet<T>::kSize - 1, at an address that is a multiple of 16.
  FUSEDRNN_DEV Packet<T> load_packet(int64_t i) const {
    Packet<T> packet;
    *reinterpret_cast<uint4*>(&packet) = *reinterpret_cast<const uint4*>(ptr_ + i);
    return packet;
  }
  FUSEDRNN_DEV void store_packet(int64_t i, const Packet<T>& packet) const {
    *reinterpret_cast<uint4*>(ptr_ + i) = *reinterpret_cast<const uint4*>(&packet);
  }

  FUSEDRNN_DEV Shared offset(int64_t i) const { return Shared(ptr_ + i); }
  template <class U>
  FUSEDRNN_DEV Shared<U> as() const {
    return Shared<U>(reinterpret_cast<U*>(ptr_));
  }

  // The address within the shared window, for PTX; device/ only.
  FUSEDRNN_DEV uint32_t address(int64_t i) const {
    return static_cast<uint32_t>(__cvta_generic_to_shared(ptr_ + i));
  }

 private:
  T* ptr_;
};

// The block's dynamic shared memory from byte_offset on, uninitialised at the kernel's start.
template <class T>
FUSEDRNN_DEV Shared<T> shared_memory(int64_t byte_offset) {
  extern __shared__ __align__(128) unsigned char fusedrnn_dynamic_smem[];
  return Shared<T>(reinterpret_cast<T*>(fusedrnn_dynamic_smem + byte_offset));
}

}  // namespace fusedrnn
