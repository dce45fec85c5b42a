// Stores that others see late: asynchronous stores to other blocks, relaxed and plain stores to
// global memory. Each waits until it is delivered. Those to one address keep their order, all
// others may overtake one another; stores that overlap must begin at the same address.
#pragma once

#include <cstdint>
#include <functional>
#include <unordered_map>
#include <vector>

#include "random.h"

namespace cudasim {

class Events {
 public:
  using Deliver = std::function<void()>;

  void push(uintptr_t address, Deliver deliver);
  // Delivers one, drawn at random. False if there is none.
  bool deliver_one(Random& random);
  // Delivers all that is under way to exactly this address.
  void deliver_at(uintptr_t address);
  bool empty() const { return count_ == 0; }
  void clear();

 private:
  std::vector<uintptr_t> addresses_;  // one an event, in no order, and of some that were delivered
  size_t count_ = 0;
  std::unordered_map<uintptr_t, std::vector<Deliver>> pending_;
};

}  // namespace cudasim
