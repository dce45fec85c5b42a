// What happened before what, among the threads of a cluster: vector clocks.
//
// A thread's clock moves on whenever it hands knowledge over. An epoch is one reading of one
// owner's clock; thread t knows an epoch when a chain of synchronisation leads from there to
// t. Two accesses to one word race when one of them writes and the later thread does not know
// the earlier access's epoch, in whatever order the simulator ran them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace cudasim {

// clock << 16 | thread; 0 is no epoch.
using Epoch = uint64_t;
constexpr int kEpochThreadBits = 16;
inline int epoch_thread(Epoch epoch) { return static_cast<int>(epoch & 0xFFFF); }

// The last reading known of each thread's clock. Shared by all who know the same.
using Knowledge = std::shared_ptr<const std::vector<uint32_t>>;

class Clocks {
 public:
  // Threads own the first clocks; the others are for whom they act through (mbarrier.h).
  Clocks(int threads, int others);

  Epoch now(int thread) const {
    return static_cast<Epoch>(now_[thread]) << kEpochThreadBits | static_cast<Epoch>(thread);
  }
  const std::vector<uint32_t>& known(int thread) const { return *known_[thread]; }
  static bool knows(const std::vector<uint32_t>& known, Epoch epoch) {
    return known[epoch_thread(epoch)] >= epoch >> kEpochThreadBits;
  }

  // The threads meet: each knows afterwards what any knew before.
  void meet(const std::vector<int>& threads);
  // What `thread` knows now, itself included.
  Knowledge release(int thread);
  void acquire(int thread, const Knowledge& knowledge);
  static Knowledge merge(const Knowledge& a, const Knowledge& b);

 private:
  std::vector<uint32_t> now_;
  std::vector<Knowledge> known_;
};

}  // namespace cudasim
