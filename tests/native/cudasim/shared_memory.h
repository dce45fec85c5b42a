// The shared memory of one block, with what is known of every 2 bytes of it: who wrote them
// last and who read them since, as epochs of the cluster's clocks.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "clocks.h"
#include "random.h"

namespace cudasim {

enum class Access : int8_t { kRead, kWrite };

class SharedMemory {
 public:
  // Filled with 0xFF: a NaN in every floating-point type.
  explicit SharedMemory(int64_t bytes);

  // Null, or what is wrong with an access to [offset, offset + bytes) by a thread whose epoch
  // is `now` and that knows `knows(epoch)`; an access without fault is recorded. `other` is then
  // the epoch that a race is with, or 0.
  template <class Knows>
  const char* check(Access access, int64_t offset, int64_t bytes, Epoch now, const Knows& knows,
                    Random& random, Epoch* other);

  uint8_t* data() { return data_.get(); }
  int64_t bytes() const { return bytes_; }
  // The two bytes at `offset` were written before.
  bool initialised(int64_t offset) const { return cells_[offset / kCellBytes].write != 0; }

 private:
  static constexpr int64_t kCellBytes = 2;
  // As in most race detectors only some of the readers are kept, by lot: who misses a reader
  // under one seed finds it under the next.
  static constexpr int kReaders = 2;
  struct Cell {
    Epoch write;
    Epoch read[kReaders];
  };
  struct Free {
    void operator()(void* ptr) const;
  };

  int64_t bytes_;
  std::unique_ptr<uint8_t[], Free> data_;
  std::vector<Cell> cells_;
};

template <class Knows>
const char* SharedMemory::check(Access access, int64_t offset, int64_t bytes, Epoch now,
                                const Knows& knows, Random& random, Epoch* other) {
  *other = 0;
  if (offset < 0 || offset + bytes > bytes_) return "out of bounds";
  if (offset % bytes != 0) return "misaligned";
  Cell* const end = &cells_[0] + (offset + bytes) / kCellBytes;
  for (Cell* cell = &cells_[0] + offset / kCellBytes; cell != end; ++cell) {
    if (access == Access::kRead && cell->write == 0) return "uninitialised";
    if (cell->write != 0 && !knows(cell->write)) {
      *other = cell->write;
      return access == Access::kRead ? "a race with the write" : "a race with an earlier write";
    }
    if (access == Access::kWrite) {
      for (Epoch read : cell->read) {
        if (read == 0 || knows(read)) continue;
        *other = read;
        return "a race with the read";
      }
      *cell = {now, {}};
      continue;
    }
    // A read that this one follows can go: whoever knows this one knows that one.
    int slot = 0;
    while (slot < kReaders && cell->read[slot] != 0 && !knows(cell->read[slot])) ++slot;
    cell->read[slot < kReaders ? slot : static_cast<int>(random.below(kReaders))] = now;
  }
  return nullptr;
}

}  // namespace cudasim
