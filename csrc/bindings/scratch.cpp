#include "bindings/scratch.h"

#include <c10/core/impl/alloc_cpu.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <limits>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace fusedrnn {
namespace {

struct Pool {
  ScratchBlock addresses;  // of kPoolBytes, once a call has asked
  size_t taken = 0;        // bytes, from the start on
  size_t most_taken = 0;
};

thread_local Pool pool;

ScratchBlock allocate_block(size_t bytes) { return ScratchBlock(c10::alloc_cpu(bytes)); }

// Asks for large pages where whole ones fit.
void use_large_pages(const ScratchBlock& block, size_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kPageBytes = uintptr_t{2} << 20;
  const auto begin = reinterpret_cast<uintptr_t>(block.get());
  const uintptr_t first = (begin + kPageBytes - 1) / kPageBytes * kPageBytes;
  const uintptr_t last = (begin + bytes) / kPageBytes * kPageBytes;
  // A refusal changes nothing.
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace

void FreeScratch::operator()(void* data) const { c10::free_cpu(data); }

Scratch::Scratch() : first_(pool.taken) {}

Scratch::~Scratch() { pool.taken = first_; }

void* Scratch::allocate(size_t bytes) {
  constexpr size_t kAlign = 64;
  constexpr auto kMostBytes = static_cast<size_t>(std::numeric_limits<int64_t>::max());
  TORCH_CHECK(bytes <= kMostBytes - kAlign, "scratch memory: expected a size, got ", bytes,
              " bytes; a product of sizes overflowed");
  bytes = (bytes + kAlign - 1) / kAlign * kAlign;
  if (bytes > kPoolBytes - pool.taken) {
    const ScratchBlock& block = outside_pool_.emplace_back(allocate_block(bytes));
    if (bytes <= kPoolBytes) use_large_pages(block, bytes);
    return block.get();
  }
  if (pool.addresses == nullptr) pool.addresses = allocate_block(kPoolBytes);
  void* piece = static_cast<char*>(pool.addresses.get()) + pool.taken;
  pool.taken += bytes;
  if (pool.taken > pool.most_taken) {
    pool.most_taken = pool.taken;
    use_large_pages(pool.addresses, pool.most_taken);
  }
  return piece;
}

}  // namespace fusedrnn
