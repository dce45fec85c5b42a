// 16 bytes of elements: the widest load and store of a thread. Plain C++, for kernels, their
// hosts and the simulator.
#pragma once

#include <cstdint>

#include "common/macros.h"

namespace fusedrnn {

template <class T>
struct alignas(16) Packet {
  static constexpr int kSize = 16 / static_cast<int>(sizeof(T));
  T v[kSize];
  FUSEDRNN_HD T& operator[](int i) { return v[i]; }
  FUSEDRNN_HD const T& operator[](int i) const { return v[i]; }
};

}  // namespace fusedrnn
