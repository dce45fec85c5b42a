// Stores that others see late: asynchronous stores to other blocks and relaxed stores to global
// memory. Each waits until it is delivered. Those to one address keep their order, all others
// may overtake one another; stores that overlap must begin at the same address.
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
  bool empty() const { return addresses_.empty(); }
  void clear();

 private:
  std::vector<uintptr_t> addresses_;  // one an event, in no order
  std::unordered_map<uintptr_t, std::vector<Deliver>> pending_;
};

}  // namespace cudasim
