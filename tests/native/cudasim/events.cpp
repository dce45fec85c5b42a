#include "events.h"

#include <utility>

namespace cudasim {

void Events::push(uintptr_t address, Deliver deliver) {
  addresses_.push_back(address);
  pending_[address].push_back(std::move(deliver));
  ++count_;
}

bool Events::deliver_one(Random& random) {
  while (!addresses_.empty()) {
    std::swap(addresses_[random.below(addresses_.size())], addresses_.back());
    const auto found = pending_.find(addresses_.back());
    addresses_.pop_back();
    if (found == pending_.end()) continue;
    const Deliver deliver = std::move(found->second.front());
    found->second.erase(found->second.begin());
    if (found->second.empty()) pending_.erase(found);
    --count_;
    deliver();
    return true;
  }
  return false;
}

void Events::deliver_at(uintptr_t address) {
  const auto found = pending_.find(address);
  if (found == pending_.end()) return;
  const std::vector<Deliver> queue = std::move(found->second);
  pending_.erase(found);
  count_ -= queue.size();
  for (const Deliver& deliver : queue) deliver();
}

void Events::clear() {
  addresses_.clear();
  pending_.clear();
  count_ = 0;
}

}  // namespace cudasim
