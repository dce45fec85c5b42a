// Arithmetic that the planners and time models of both devices share.
#pragma once

#include <cstdint>

namespace fusedrnn {

// Of a >= 0 by b > 0; no sum in it can overflow.
constexpr int64_t ceil_div(int64_t a, int64_t b) { return a / b + (a % b != 0 ? 1 : 0); }
constexpr double smaller(double a, double b) { return a < b ? a : b; }

}  // namespace fusedrnn
