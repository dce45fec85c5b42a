#include "access.h"

#include <cstdio>

#include "scheduler.h"

namespace cudasim {

bool check_shared(const Thread& by, Block& block, Access access, int64_t offset, int64_t bytes,
                  Epoch now, int own, const std::vector<uint32_t>& known) {
  Epoch other = 0;
  const char* fault =
      block.smem->check(access, offset, bytes, now, own, known, kept_reader(), &other);
  if (!fault) return true;
  const fusedrnn::LaunchShape& of_launch = block.cluster->launch->launch.shape;
  const int threads = of_launch.threads, clock = epoch_thread(other);
  const bool clusters = of_launch.cluster > 1;
  char where[32] = "", whose[48] = "";
  if (clusters) std::snprintf(where, sizeof(where), " of cluster block %d", block.rank);
  if (other != 0 && clock >= threads * of_launch.cluster) {
    std::snprintf(whose, sizeof(whose), " of an asynchronous store");
  } else if (other != 0 && clusters) {
    std::snprintf(whose, sizeof(whose), " of cluster block %d, thread %d", clock / threads,
                  clock % threads);
  } else if (other != 0) {
    std::snprintf(whose, sizeof(whose), " of thread %d", clock);
  }
  report(by, "%s of shared bytes [%lld, %lld) of %lld%s %s%s",
         access == Access::kRead ? "read" : "write", static_cast<long long>(offset),
         static_cast<long long>(offset + bytes), static_cast<long long>(block.smem->bytes()), where,
         fault, whose);
  return false;
}

uint8_t* access_shared(Access access, int64_t offset, int64_t bytes) {
  count_access();
  if (access == Access::kWrite) something_happened();
  Block& block = *self->block;
  const Clocks& clocks = block.cluster->clocks;
  if (!check_shared(*self, block, access, offset, bytes, clocks.now(self->clock), self->clock,
                    clocks.known(self->clock))) {
    stop();
  }
  return block.smem->data() + offset;
}

}  // namespace cudasim
