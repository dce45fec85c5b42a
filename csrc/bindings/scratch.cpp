#include "bindings/scratch.h"

#include <c10/core/impl/alloc_cpu.h>

#include <cstdint>
#include <utility>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace fusedrnn {
namespace {

struct Pool {
  std::vector<ScratchBlock> blocks;  // in the order in which they were given back
  size_t bytes = 0;

  ScratchBlock remove(size_t idx) {
    ScratchBlock block = std::move(blocks[idx]);
    blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(idx));
    bytes -= block.bytes;
    return block;
  }
};

thread_local Pool pool;

// Where whole ones fit.
void use_large_pages(void* data, size_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kPageBytes = uintptr_t{2} << 20;
  const auto begin = reinterpret_cast<uintptr_t>(data);
  const uintptr_t first = (begin + kPageBytes - 1) / kPageBytes * kPageBytes;
  const uintptr_t last = (begin + bytes) / kPageBytes * kPageBytes;
  // A refusal changes nothing.
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace

void FreeScratch::operator()(void* data) const { c10::free_cpu(data); }

ScratchBlock take_scratch(size_t bytes) {
  // No block of more than twice the size, which may be wanted next.
  const size_t most = 2 * bytes;
  size_t best = pool.blocks.size();
  for (size_t i = 0; i < pool.blocks.size(); ++i) {
    const size_t size = pool.blocks[i].bytes;
    if (size < bytes || size > most) continue;
    if (best == pool.blocks.size() || size < pool.blocks[best].bytes) best = i;
  }
  if (best < pool.blocks.size()) return pool.remove(best);
  ScratchBlock block;
  block.data.reset(c10::alloc_cpu(bytes));
  if (bytes <= kMaxPoolBytes) use_large_pages(block.data.get(), bytes);
  block.bytes = bytes;
  return block;
}

void give_back_scratch(ScratchBlock block) {
  if (block.bytes > kMaxPoolBytes) return;
  while (!pool.blocks.empty() && (pool.bytes + block.bytes > kMaxPoolBytes ||
                                  pool.blocks.size() == static_cast<size_t>(kMaxPoolBlocks))) {
    pool.remove(0);
  }
  pool.bytes += block.bytes;
  pool.blocks.push_back(std::move(block));
}

}  // namespace fusedrnn
