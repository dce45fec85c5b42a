// Barriers for a part of a block, and mbarriers, which count arrivals and bytes.
//
// An mbarrier goes from phase to phase: phase p ends when as many threads arrived as init said
// and as many bytes came (cluster.cuh) as they expected. Whoever waited for the end of a phase
// sees what the arriving threads wrote before, and the bytes. Needs sm_90.
#pragma once

#include <cstdint>

#include "cuda/device/shared.cuh"
#include "cuda/device/thread.cuh"

namespace fusedrnn {

// `threads` threads of the block, in whole warps, arrive before one leaves. Barriers 1 to 15 are
// free, 0 is sync_block's.
FUSEDRNN_DEV void sync_named(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

class Mbarrier {
 public:
  // The mbarrier is word i of `words`.
  FUSEDRNN_DEV Mbarrier(const Shared<uint64_t>& words, int64_t i) : address_(words.address(i)) {}

  // Is called once, by one thread; fence_mbarrier_init and a barrier come between this and any
  // other use.
  FUSEDRNN_DEV void init(int arrivals) const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address_), "r"(arrivals)
                 : "memory");
#else
    __trap();
#endif
  }

  FUSEDRNN_DEV void arrive() const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(address_) : "memory");
#else
    __trap();
#endif
  }

  // Arrives, and has this phase wait for `bytes` more.
  FUSEDRNN_DEV void arrive_expect_tx(int bytes) const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile(
        "mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(address_),
        "r"(bytes)
        : "memory");
#else
    __trap();
#endif
  }

  // Waits for the end of the phase with this parity: 0 for the first, then 1, then 0. The
  // barrier must be in that phase or the next one.
  FUSEDRNN_DEV void wait(int parity) const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    uint32_t ended = 0;
    while (ended == 0) {
      asm volatile(
          "{\n"
          ".reg .pred ended;\n"
          "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 ended, [%1], %2;\n"
          "selp.u32 %0, 1, 0, ended;\n"
          "}\n"
          : "=r"(ended)
          : "r"(address_), "r"(parity)
          : "memory");
    }
#else
    __trap();
#endif
  }

  // The address is for cluster.cuh.
  FUSEDRNN_DEV uint32_t address() const { return address_; }

 private:
  uint32_t address_;
};

// Is called by the thread that did init, before the barrier that tells the others.
FUSEDRNN_DEV void fence_mbarrier_init() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#else
  __trap();
#endif
}

}  // namespace fusedrnn
