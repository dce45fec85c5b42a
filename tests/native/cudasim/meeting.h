// How threads meet: barriers and shuffles. A thread that comes waits until the last one does.
#pragma once

#include <cstdint>

#include "block.h"

namespace cudasim {

void sync_block();
void sync_warp();
void sync_cluster();
void sync_named(int barrier, int threads);
// Gives `value` to the warp and takes that of lane `source`. `what` and `parameter` must be the
// same in all lanes.
uint64_t shuffle(uint64_t value, int source, const char* what, int parameter);

// What the lanes of a warp do together: each gives the address of its part, and the last one that
// comes runs `together` on all of them, by lane. `what` and `parameter` are as in shuffle.
void collective(const char* what, int parameter, void* part, void (*together)(void* const* parts));

// Is called after a thread ended: the living ones no longer wait for it.
void release_if_complete(Meeting& meeting, int living);

}  // namespace cudasim
