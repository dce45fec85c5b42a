// How plans are written: a printf into a buffer that drops what does not fit, and times.
#pragma once

#include <cstdarg>
#include <cstddef>
#include <cstdio>

#include "plan/problem.h"

namespace fusedrnn {

class Writer {
 public:
  Writer(char* text, size_t size) : text_(text), size_(size) {
    if (size_ > 0) text_[0] = '\0';
  }

  void write(const char* format, ...) {
    if (length_ + 1 >= size_) return;
    va_list args;
    va_start(args, format);
    const int wanted = std::vsnprintf(text_ + length_, size_ - length_, format, args);
    va_end(args);
    if (wanted < 0) return;
    const size_t room = size_ - 1 - length_;
    length_ += static_cast<size_t>(wanted) < room ? static_cast<size_t>(wanted) : room;
  }

  size_t length() const { return length_; }

 private:
  char* text_;
  size_t size_;
  size_t length_ = 0;
};

// A time in three figures or so, by whole numbers: printing a double takes longer than the
// whole model.
struct Duration {
  explicit Duration(double seconds) {
    const double micro = seconds * 1e6;
    const double scale = micro < 1e3 ? 1 : micro < 1e6 ? 1e3 : 1e6;
    unit = micro < 1e3 ? "us" : micro < 1e6 ? "ms" : "s";
    const auto tenths = static_cast<long long>(micro / scale * 10 + 0.5);
    whole = tenths / 10;
    tenth = static_cast<int>(tenths % 10);
  }

  long long whole;
  int tenth;
  const char* unit;
};

// A line with the problem's cell, dtype and sizes.
void write_problem(const Problem& problem, Writer* writer);

// Why a candidate that could run does not: how long it would take against the chosen one, which
// is named if it is forced (else null).
void write_slower(double seconds, double chosen_seconds, const char* forced, Writer* writer);

}  // namespace fusedrnn
