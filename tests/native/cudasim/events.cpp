#include "events.h"

#include <utility>

namespace cudasim {

void Events::push(uintptr_t address, Deliver deliver) {
  addresses_.push_back(address);
  pending_[address].push_back(std::move(deliver));
}

bool Events::deliver_one(Random& random) {
  if (addresses_.empty()) return false;
  std::swap(addresses_[random.below(addresses_.size())], addresses_.back());
  std::vector<Deliver>& queue = pending_[addresses_.back()];
  addresses_.pop_back();
  const Deliver deliver = std::move(queue.front());
  queue.erase(queue.begin());
  deliver();
  return true;
}

void Events::clear() {
  addresses_.clear();
  pending_.clear();
}

}  // namespace cudasim
