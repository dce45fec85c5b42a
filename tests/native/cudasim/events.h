// Stores that others see late: asynchronous stores to other blocks and relaxed stores to global
// memory. Each waits until it is delivered; those to one address keep their order, all others
// may overtake one another.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "random.h"

namespace cudasim {

class Events {
 public:
  // deliver() writes [address, address + bytes). Events after one another with one `chain` other
  // than 0 keep their order too.
  void push(uintptr_t address, uintptr_t bytes, uint64_t chain, std::function<void()> deliver);
  // Delivers one, drawn at random. False if there is none.
  bool deliver_one(Random& random);
  bool empty() const { return pending_.empty(); }
  void clear() { pending_.clear(); }

 private:
  struct Event {
    uintptr_t begin, end;
    uint64_t chain;
    std::function<void()> deliver;
  };
  std::vector<Event> pending_;
};

}  // namespace cudasim
