// Accesses of threads to shared memory: where they may lose their turn, and where faults show.
#pragma once

#include <cstdint>
#include <vector>

#include "block.h"

namespace cudasim {

// The address of [offset, offset + bytes) in the block's shared memory, for the running thread's
// access, which is checked.
uint8_t* access_shared(Access access, int64_t offset, int64_t bytes);
// Checks an access to any block's shared memory; a fault is `by`'s. The rest is as in
// SharedMemory::check.
bool check_shared(const Thread& by, Block& block, Access access, int64_t offset, int64_t bytes,
                  Epoch now, int own, const std::vector<uint32_t>& known);

}  // namespace cudasim
