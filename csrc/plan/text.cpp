#include "plan/text.h"

#include <cstdarg>
#include <cstdio>

#include "cells/registry.h"

namespace fusedrnn {

namespace {

const char* dtype_name(DType dtype) {
  constexpr const char* kNames[] = {"float32", "float64", "bfloat16", "float16"};
  return kNames[static_cast<int>(dtype)];
}

void write_reason(const Reason& reason, Writer* writer) {
  if (reason.wish != nullptr) writer->write("%s: ", reason.wish);
  writer->write(reason.format, static_cast<long long>(reason.needs),
                static_cast<long long>(reason.has));
}

}  // namespace

Writer::Writer(char* text, size_t size) : text_(text), size_(size) {
  if (size_ > 0) text_[0] = '\0';
}

void Writer::write(const char* format, ...) {
  if (length_ + 1 >= size_) return;
  va_list args;
  va_start(args, format);
  const int wanted = std::vsnprintf(text_ + length_, size_ - length_, format, args);
  va_end(args);
  if (wanted < 0) return;
  const size_t room = size_ - 1 - length_;
  length_ += static_cast<size_t>(wanted) < room ? static_cast<size_t>(wanted) : room;
}

void Writer::write_time(double seconds) {
  const double micro = seconds * 1e6;
  const double scale = micro < 1e3 ? 1 : micro < 1e6 ? 1e3 : 1e6;
  const auto tenths = static_cast<long long>(micro / scale * 10 + 0.5);
  write("%lld.%lld %s", tenths / 10, tenths % 10, micro < 1e3 ? "us" : micro < 1e6 ? "ms" : "s");
}

void write_problem(const Problem& problem, Writer* writer) {
  writer->write("problem: %s %s, seq_len %lld, batch_size %lld, input_size %lld, hidden_size %lld",
                cell_info(problem.cell).name, dtype_name(problem.dtype),
                static_cast<long long>(problem.seq_len), static_cast<long long>(problem.batch_size),
                static_cast<long long>(problem.input_size),
                static_cast<long long>(problem.hidden_size));
  if (problem.proj_size > 0) {
    writer->write(", proj_size %lld", static_cast<long long>(problem.proj_size));
  }
  writer->write("%s, %s\n", problem.directions == 2 ? ", 2 directions" : "",
                problem.training ? "training" : "inference");
}

void write_format(WeightFormat format, Writer* writer) {
  if (format == WeightFormat::kSame) return;
  constexpr const char* kNames[] = {"", "bfloat16", "float16", "int8"};
  writer->write("weight dtype: %s\n", kNames[static_cast<int>(format)]);
}

void write_rejection(const Candidate& candidate, double chosen_seconds, const char* forced,
                     Writer* writer) {
  writer->write("not %s: ", candidate.name);
  if (candidate.reason.format != nullptr) {
    write_reason(candidate.reason, writer);
  } else {
    const bool is_kept_back = candidate.reason.drawback != nullptr && forced == nullptr &&
                              candidate.modelled_seconds < chosen_seconds;
    if (is_kept_back) writer->write("%s; ", candidate.reason.drawback);
    if (forced != nullptr) writer->write("%s is forced; ", forced);
    writer->write("modelled ");
    writer->write_time(candidate.modelled_seconds);
    writer->write(" against ");
    writer->write_time(chosen_seconds);
  }
  writer->write("\n");
}

void write_rejections(const Choice& choice, Writer* writer) {
  for (int i = 0; i < choice.rejection_count; ++i) {
    write_rejection(choice.rejections[i], choice.modelled_seconds, choice.forced, writer);
  }
}

Status refusal(const Candidate& candidate) {
  char text[160];
  Writer writer(text, sizeof(text));
  write_reason(candidate.reason, &writer);
  return Status::error("schedule %s: %s", candidate.name, text);
}

}  // namespace fusedrnn
