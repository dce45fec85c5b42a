#include "plan/text.h"

#include "cells/registry.h"

namespace fusedrnn {

namespace {

const char* dtype_name(DType dtype) {
  constexpr const char* kNames[] = {"float32", "float64", "bfloat16", "float16"};
  return kNames[static_cast<int>(dtype)];
}

}  // namespace

void write_problem(const Problem& problem, Writer* writer) {
  writer->write("%s %s: seq_len %lld, batch_size %lld, input_size %lld, hidden_size %lld",
                cell_info(problem.cell).name, dtype_name(problem.dtype),
                static_cast<long long>(problem.seq_len), static_cast<long long>(problem.batch_size),
                static_cast<long long>(problem.input_size),
                static_cast<long long>(problem.hidden_size));
  if (problem.proj_size > 0) {
    writer->write(", proj_size %lld", static_cast<long long>(problem.proj_size));
  }
  if (problem.format != WeightFormat::kSame) {
    constexpr const char* kNames[] = {"", "bfloat16", "float16", "int8"};
    writer->write(", weights in %s", kNames[static_cast<int>(problem.format)]);
  }
}

void write_slower(double seconds, double chosen_seconds, const char* forced, Writer* writer) {
  const Duration its(seconds), other(chosen_seconds);
  writer->write("%s%smodelled %lld.%d %s against %lld.%d %s", forced != nullptr ? forced : "",
                forced != nullptr ? " is forced; " : "", its.whole, its.tenth, its.unit,
                other.whole, other.tenth, other.unit);
}

}  // namespace fusedrnn
