// The simulator's twin of csrc/cuda/device/launch.cuh: the launch has ended when it returns, and
// its error is what the simulator found. One that may begin before the launch before has ended
// lets that one end, and goes on itself with the next launch or cudasim::finish.
#pragma once

#include "common/status.h"
#include "cuda/device/launch_shape.h"
#include "cuda/device/thread.cuh"
#include "scheduler.h"

namespace fusedrnn {

template <class Kernel>
Status launch(const LaunchShape& shape, const typename Kernel::Args& args, Stream) {
  static_assert(Kernel::kMaxThreads <= kMaxBlockThreads, "a block has 1024 threads at most");
  if (Status status = check_launch_shape(shape, Kernel::kMaxThreads, Kernel::kName); !status.ok) {
    return status;
  }
  if (shape.blocks() == 0) return {};
  const auto body = [](const void* arguments) {
    Kernel::run(*static_cast<const typename Kernel::Args*>(arguments));
  };
  return cudasim::run({Kernel::kName, shape, body, &args, sizeof(args)});
}

}  // namespace fusedrnn
