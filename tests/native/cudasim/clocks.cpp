#include "clocks.h"

#include <algorithm>

namespace cudasim {
namespace {

void take_later(std::vector<uint32_t>& into, const std::vector<uint32_t>& from) {
  for (size_t i = 0; i < into.size(); ++i) into[i] = std::max(into[i], from[i]);
}

}  // namespace

Clocks::Clocks(int threads, int others)
    : now_(threads, 1),
      known_(threads, std::make_shared<const std::vector<uint32_t>>(threads + others, 0)) {}

void Clocks::meet(const std::vector<int>& threads) {
  if (threads.empty()) return;
  const std::vector<uint32_t>* last = known_[threads[0]].get();
  auto joined = std::make_shared<std::vector<uint32_t>>(*last);
  for (int thread : threads) {
    // Most meetings are of threads that last met one another.
    if (known_[thread].get() != last) {
      last = known_[thread].get();
      take_later(*joined, *last);
    }
  }
  for (int thread : threads) (*joined)[thread] = now_[thread]++;
  for (int thread : threads) known_[thread] = joined;
}

Knowledge Clocks::release(int thread) {
  auto known = std::make_shared<std::vector<uint32_t>>(*known_[thread]);
  (*known)[thread] = now_[thread]++;
  return known;
}

void Clocks::acquire(int thread, const Knowledge& knowledge) {
  known_[thread] = merge(known_[thread], knowledge);
}

Knowledge Clocks::merge(const Knowledge& a, const Knowledge& b) {
  if (!a || !b || a == b) return a ? a : b;
  auto merged = std::make_shared<std::vector<uint32_t>>(*a);
  take_later(*merged, *b);
  return merged;
}

}  // namespace cudasim
