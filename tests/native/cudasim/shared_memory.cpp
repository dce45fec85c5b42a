#include "shared_memory.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace cudasim {
namespace {

constexpr size_t kAlignment = 128;

// Exactly as many bytes as the kernel asked for, so that the address sanitizer sees the end.
uint8_t* allocate(int64_t bytes) {
  const size_t size = static_cast<size_t>(std::max<int64_t>(bytes, 1));
  void* ptr = nullptr;
  if (posix_memalign(&ptr, kAlignment, size) != 0) throw std::bad_alloc();
  std::memset(ptr, 0xFF, size);
  return static_cast<uint8_t*>(ptr);
}

}  // namespace

void SharedMemory::Free::operator()(void* ptr) const { std::free(ptr); }

SharedMemory::SharedMemory(int64_t bytes)
    : bytes_(bytes), data_(allocate(bytes)), cells_(bytes / kCellBytes + 1, Cell{}) {}

}  // namespace cudasim
