// What a kernel returns instead of throwing. It allocates nothing.
#pragma once

#include <cstdarg>
#include <cstdio>

namespace fusedrnn {

struct Status {
  bool ok = true;
  char message[256] = {0};  // empty when ok

  static Status error(const char* format, ...) {
    Status status;
    status.ok = false;
    va_list args;
    va_start(args, format);
    std::vsnprintf(status.message, sizeof(status.message), format, args);
    va_end(args);
    return status;
  }
};

}  // namespace fusedrnn
