// Global memory as the threads of a launch see it. Plain stores arrive some time later, and may
// come in pieces of 2 bytes; whoever must not have seen or changed what another one stores shows:
//
//   - a read-only load of what its own launch, or one that still runs, has stored
//   - a plain load of what another block of its launch, or a launch that still runs, has stored
//   - a store by two blocks of a launch, or before wait_for_launch_before
//   - a load before wait_for_launch_before of what the launch before stores later
//
// A block sees what it stored itself.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cudasim {

enum class GlobalLoad : int8_t { kReadOnly, kPlain };

// Checks a load by the running thread, and lets its block's own stores there arrive.
void check_load(GlobalLoad kind, const void* ptr, size_t bytes);
// A plain store by the running thread.
void store_plain(void* ptr, const void* value, size_t bytes);
// Forgets the stores and loads of launches, of which none runs.
void forget_accesses();

}  // namespace cudasim
