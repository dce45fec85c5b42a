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

const char* SharedMemory::check(Access access, int64_t offset, int64_t bytes, Epoch now, int own,
                                const std::vector<uint32_t>& known, Kept kept, Epoch* other) {
  *other = 0;
  if (offset < 0 || offset + bytes > bytes_) return "is out of bounds";
  if (offset % bytes != 0) return "is misaligned";
  const auto knows = [&](Epoch epoch) {
    return epoch_thread(epoch) == own || Clocks::knows(known, epoch);
  };
  Cell* const end = cells_.data() + (offset + bytes) / kCellBytes;
  for (Cell* cell = cells_.data() + offset / kCellBytes; cell != end; ++cell) {
    if (cell->write != 0 && !knows(cell->write)) {
      *other = cell->write;
      return "races with the write";
    }
    if (access == Access::kWrite) {
      if (cell->read != 0 && !knows(cell->read)) {
        *other = cell->read;
        return "races with the read";
      }
      *cell = {now, 0};
      continue;
    }
    if (cell->write == 0) return "is uninitialised";
    // A read that this one follows can go: who knows this one knows that one.
    if (cell->read == 0 || knows(cell->read) || kept == Kept::kLast) cell->read = now;
  }
  return nullptr;
}

}  // namespace cudasim
