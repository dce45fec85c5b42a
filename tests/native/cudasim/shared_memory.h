// The shared memory of one block, with what is known of every 2 bytes of it: who wrote them
// last and who has read them since, as epochs of the cluster's clocks.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "clocks.h"

namespace cudasim {

enum class Access : int8_t { kRead, kWrite };
// Of readers that do not know of one another one is kept: what it misses, the other one, which
// another seed keeps, finds.
enum class Kept : int8_t { kFirst, kLast };

class SharedMemory {
 public:
  // The memory is filled with 0xFF: a NaN in every floating-point type.
  explicit SharedMemory(int64_t bytes);

  // Records an access to [offset, offset + bytes) at epoch `now` by someone who knows `known`
  // and, unless `own` is negative, all that this clock's owner did. Returns null, or what is
  // wrong with it; `other` is then the epoch that it races with, or 0.
  const char* check(Access access, int64_t offset, int64_t bytes, Epoch now, int own,
                    const std::vector<uint32_t>& known, Kept kept, Epoch* other);

  uint8_t* data() { return data_.get(); }
  int64_t bytes() const { return bytes_; }

 private:
  static constexpr int64_t kCellBytes = 2;
  struct Cell {
    Epoch write;
    Epoch read;
  };
  struct Free {
    void operator()(void* ptr) const;
  };

  int64_t bytes_;
  std::unique_ptr<uint8_t[], Free> data_;
  std::vector<Cell> cells_;
};

}  // namespace cudasim
