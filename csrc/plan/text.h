// How plans are written, for print_plan, print_cuda_plan and errors: facts, a line each of a name
// without a colon, ": " and what is said of it. bindings/chosen_plan.h hands them to Python.
#pragma once

#include <cstddef>

#include "common/status.h"
#include "plan/plan.h"
#include "plan/problem.h"

namespace fusedrnn {

// A printf into a buffer that drops what does not fit.
class Writer {
 public:
  Writer(char* text, size_t size);

  void write(const char* format, ...);
  void write_time(double seconds);
  size_t length() const { return length_; }

 private:
  char* text_;
  size_t size_;
  size_t length_ = 0;
};

// A line with the problem's cell, dtype, sizes and purpose.
void write_problem(const Problem& problem, Writer* writer);

// A line with the dtype of weights that have one of their own.
void write_format(WeightFormat format, Writer* writer);

// A line that says why a candidate was not chosen: why it is not possible, or how long it would
// take against the chosen one, which is named if it is forced (else null).
void write_rejection(const Candidate& candidate, double chosen_seconds, const char* forced,
                     Writer* writer);
void write_rejections(const Choice& choice, Writer* writer);

// The error that a candidate which is not possible is forced.
Status refusal(const Candidate& candidate);

}  // namespace fusedrnn
