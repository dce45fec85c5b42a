// The simulator's random numbers: splitmix64, the same on every machine for the same seed.
#pragma once

#include <cstdint>

namespace cudasim {

// A probability, less than 1.
struct Chance {
  constexpr Chance(double probability = 0)  // NOLINT: implicit by design
      : below(static_cast<uint64_t>(probability * 0x1p64)) {}
  uint64_t below;
};

class Random {
 public:
  explicit Random(uint64_t seed = 0) : state_(seed * 0x9E3779B97F4A7C15u + 1) {}

  uint64_t next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  // 0 .. n - 1, for n far below 2^32.
  uint32_t below(uint64_t n) { return static_cast<uint32_t>((next() >> 32) * n >> 32); }
  bool chance(Chance chance) { return chance.below > next(); }

 private:
  uint64_t state_;
};

}  // namespace cudasim
