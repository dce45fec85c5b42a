// What the plans of both devices share: schedules, candidates, and why one of them is chosen.
//
// make_plan and make_cuda_plan (by choose.h) are pure functions of their arguments: no allocation,
// no clock, no device call, so that decisions for any machine are tested on any other. They run at
// every call of a layer: a reason is numbers, which only print_plan and print_cuda_plan make text.
#pragma once

#include <cstdint>

namespace fusedrnn {

enum class Schedule : int8_t { kPerStep, kPersistent, kSingleBlock };

// What a plan is for: both passes of a layer have plans of their own.
enum class Pass : int8_t { kForward, kBackward };

// What keeps a candidate from being possible.
struct Reason {
  const char* format = nullptr;  // of what it needs and what there is, as %lld; null: nothing does
  int64_t needs = 0;
  int64_t has = 0;
  const char* wish = nullptr;  // what was asked for and rules it out, if it is not the schedule
  // What a candidate that is possible must be forced for, however fast it is.
  const char* drawback = nullptr;
};

// A schedule, or one of its forms, as considered for a problem.
struct Candidate {
  const char* name;         // that forces it
  double modelled_seconds;  // of all directions, where it is possible
  Reason reason;            // why it is not, or is chosen only if it is forced
};
constexpr int kMaxCandidates = 3;  // of a device

// The part of a plan that is not sizes.
struct Choice {
  const char* name;         // of the chosen candidate
  double modelled_seconds;  // of all directions under it
  const char* forced;       // as it was given, which has to outlive the plan; null: nothing was
  int rejection_count;
  Candidate rejections[kMaxCandidates - 1];  // all others
};

}  // namespace fusedrnn
