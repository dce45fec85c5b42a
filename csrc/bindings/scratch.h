// Scratch memory of the CPU kernels, kept from one call to the next: memory fresh from the system
// costs a page fault for every 4 KiB, which a large call would pay each time. What is kept is in
// large pages where Linux grants them: reading 64 MiB of packed weights at every step through small
// ones is slower. Memory that is written once is slower in large pages.
//
// Every thread that calls has a pool of its own, so that there is no lock that a fork could find
// taken: kPoolBytes of addresses, of which only what a call has used is memory. Each call takes its
// pieces from the start on, so that all of them, forward and backward, use the same memory, and
// what is kept is what the largest used. A piece that has no room there lives as long as its call.
// A pool ends with its thread.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

namespace fusedrnn {

// Holds the packed weight_hh of an LSTM of 2048 units, 64 MiB, and what few rows need beside it.
constexpr size_t kPoolBytes = size_t{80} << 20;

struct FreeScratch {
  void operator()(void* data) const;
};
using ScratchBlock = std::unique_ptr<void, FreeScratch>;

// The scratch memory of one call, on the thread that made this. The last one made ends first.
class Scratch {
 public:
  Scratch();
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  // The memory is uninitialised, aligned to 64 bytes and valid as long as this. Raises torch's
  // error where there is none.
  void* allocate(size_t bytes);

 private:
  size_t first_;  // byte of the pool
  std::vector<ScratchBlock> outside_pool_;
};

}  // namespace fusedrnn
