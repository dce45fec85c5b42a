#include "global_memory.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "scheduler.h"

namespace cudasim {
namespace {

constexpr uintptr_t kCellBytes = 2;
constexpr uintptr_t kCells = 8;  // of a granule

// Who stored a cell last.
struct Stored {
  uint64_t launch = 0;
  int64_t block = 0;
};
struct Granule {
  Stored stored[kCells];
  bool has_stores = false;
  // The cells that a launch loaded of before it waited.
  uint64_t early_launch = 0;
  unsigned early_cells = 0;
};
std::unordered_map<uintptr_t, Granule> granules;

// Calls body(granule, cell) for each cell of an access. Granules that nothing is known of are made,
// or left out.
template <class Body>
void for_each_cell(const void* ptr, size_t bytes, bool make, const Body& body) {
  const uintptr_t first = reinterpret_cast<uintptr_t>(ptr) / kCellBytes;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(ptr) + bytes + 1) / kCellBytes;
  for (uintptr_t cell = first; cell < end;) {
    const uintptr_t granule_end = std::min(end, (cell / kCells + 1) * kCells);
    const auto found =
        make ? granules.try_emplace(cell / kCells).first : granules.find(cell / kCells);
    for (; cell < granule_end; ++cell) {
      if (found != granules.end()) body(found->second, cell);
    }
  }
}

}  // namespace

void check_load(GlobalLoad kind, const void* ptr, size_t bytes) {
  const RunningLaunch& launch = *self->block->cluster->launch;
  const bool is_early = early_store_possible(launch);
  for_each_cell(ptr, bytes, is_early, [&](Granule& granule, uintptr_t cell) {
    if (is_early) {
      if (granule.early_launch != launch.idx) granule.early_cells = 0;
      granule.early_launch = launch.idx;
      granule.early_cells |= 1u << cell % kCells;
    }
    const Stored& by = granule.stored[cell % kCells];
    if (!granule.has_stores || !is_running(by.launch)) return;
    if (by.launch != launch.idx) {
      fail("load of what the launch before stores, before wait_for_launch_before");
    }
    if (kind == GlobalLoad::kReadOnly) fail("read-only load of what the launch itself stores");
    if (by.block != self->block->idx) {
      fail("plain load of what block %lld of the launch stores", static_cast<long long>(by.block));
    }
    events().deliver_at(cell * kCellBytes);
  });
}

void store_plain(void* ptr, const void* value, size_t bytes) {
  const RunningLaunch& launch = *self->block->cluster->launch;
  if (early_store_possible(launch)) fail("store before wait_for_launch_before");
  for_each_cell(ptr, bytes, true, [&](Granule& granule, uintptr_t cell) {
    if (granule.early_launch > launch.idx && (granule.early_cells >> cell % kCells & 1u) != 0) {
      fail("the launch after loads what this one stores, before wait_for_launch_before");
    }
    Stored& by = granule.stored[cell % kCells];
    if (by.launch == launch.idx && by.block != self->block->idx) {
      fail("store of what block %lld of the launch stores", static_cast<long long>(by.block));
    }
    by = {launch.idx, self->block->idx};
    granule.has_stores = true;
  });
  const size_t piece = torn_stores() ? std::min<size_t>(bytes, kCellBytes) : bytes;
  for (size_t i = 0; i < bytes; i += piece) {
    store_late(static_cast<char*>(ptr) + i, static_cast<const char*>(value) + i, piece);
  }
}

void forget_accesses() { granules.clear(); }

}  // namespace cudasim
