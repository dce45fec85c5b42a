// How many scheduling seeds a kernel runs under.
#pragma once

#include <cstdlib>

namespace cudasim {

// FUSEDRNN_SIM_SEEDS, or else `usual`.
inline int num_seeds(int usual) {
  const char* text = std::getenv("FUSEDRNN_SIM_SEEDS");
  const int seeds = text ? std::atoi(text) : 0;
  return seeds > 0 ? seeds : usual;
}

}  // namespace cudasim
