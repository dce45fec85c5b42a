#include "events.h"

#include <utility>

namespace cudasim {

void Events::push(uintptr_t address, uintptr_t bytes, uint64_t chain,
                  std::function<void()> deliver) {
  pending_.push_back({address, address + bytes, chain, std::move(deliver)});
}

bool Events::deliver_one(Random& random) {
  if (pending_.empty()) return false;
  size_t chosen = random.below(pending_.size());
  // What was stored to the same place before goes first.
  for (size_t i = 0; i < chosen; ++i) {
    const Event &a = pending_[i], &b = pending_[chosen];
    const bool overlap = a.begin < b.end && b.begin < a.end;
    if (overlap || (a.chain != 0 && a.chain == b.chain)) chosen = i;
  }
  const std::function<void()> deliver = std::move(pending_[chosen].deliver);
  pending_.erase(pending_.begin() + static_cast<std::ptrdiff_t>(chosen));
  deliver();
  return true;
}

}  // namespace cudasim
