// Scratch memory of the CPU kernels, kept from one call to the next: memory fresh from the system
// costs a page fault for every 4 KiB, which a large call would pay each time. What is kept is in
// large pages where Linux grants them: reading 64 MiB of packed weights at every step through small
// ones is slower. Memory that is written once is slower in large pages.
//
// Every thread that calls has a pool of its own, so that there is no lock that a fork could find
// taken. A pool keeps at most kMaxPoolBytes in at most kMaxPoolBlocks blocks, whatever shapes it
// has seen: what was given back last stays, what was given back first goes. It ends with its
// thread.
#pragma once

#include <cstddef>
#include <memory>

namespace fusedrnn {

constexpr size_t kMaxPoolBytes = size_t{64} << 20;
constexpr int kMaxPoolBlocks = 32;

struct FreeScratch {
  void operator()(void* data) const;
};
struct ScratchBlock {
  std::unique_ptr<void, FreeScratch> data;
  size_t bytes = 0;
};

// A block of at least `bytes`, uninitialised, aligned to 64 bytes: from this thread's pool if that
// has one of fitting size, else new. Raises torch's error where there is no memory.
ScratchBlock take_scratch(size_t bytes);

// Keeps a block in this thread's pool.
void give_back_scratch(ScratchBlock block);

}  // namespace fusedrnn
