// Arithmetic that the planners and time models of both devices share.
#pragma once

#include <cstdint>

namespace fusedrnn {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr double smaller(double a, double b) { return a < b ? a : b; }

}  // namespace fusedrnn
