// The driver of every planner: candidates, their times and reasons, and the choice among them.
//
// A planner is a problem on a device, with
//   kNames      its candidates, by the names that force them; "a" forces the best of "a/b", "a/c"
//   kForcible   all that may be forced, for an error to name
//   Sizes       those of a candidate; a Plan is Sizes and a Choice
//   Reason consider(int idx, Sizes* sizes, double* seconds) const
//               fills in a candidate's sizes and modelled time, or says why it is impossible; with
//               a drawback, it is chosen only if it is forced
#pragma once

#include <cstddef>
#include <cstring>
#include <iterator>

#include "common/status.h"
#include "plan/plan.h"
#include "plan/text.h"

namespace fusedrnn {

inline bool is_forced_by(const char* forced, const char* name) {
  const size_t length = std::strlen(forced);
  return std::strncmp(forced, name, length) == 0 && (name[length] == '\0' || name[length] == '/');
}

// Fills `plan` with the possible candidate of least modelled time, of those that `forced` names
// unless it is null or empty. Forcing what is unknown or impossible is an error with its reason.
template <class Planner, class Plan>
Status choose(const Planner& planner, const char* forced, Plan* plan) {
  constexpr int kCount = static_cast<int>(std::size(Planner::kNames));
  static_assert(kCount <= kMaxCandidates);
  if (forced != nullptr && forced[0] == '\0') forced = nullptr;
  typename Planner::Sizes sizes[kCount] = {};
  Candidate candidates[kCount] = {};
  int chosen = -1, refused = -1;
  for (int i = 0; i < kCount; ++i) {
    Candidate& candidate = candidates[i];
    candidate.name = Planner::kNames[i];
    candidate.reason = planner.consider(i, &sizes[i], &candidate.modelled_seconds);
    if (forced != nullptr && !is_forced_by(forced, candidate.name)) continue;
    if (candidate.reason.format != nullptr) {
      // Of several, one that a wish rules out: what is wished for can be changed.
      if (refused < 0 || candidate.reason.wish != nullptr ||
          candidates[refused].reason.wish == nullptr) {
        refused = i;
      }
    } else if (forced == nullptr && candidate.reason.drawback != nullptr) {
      continue;
    } else if (chosen < 0 || candidate.modelled_seconds < candidates[chosen].modelled_seconds) {
      chosen = i;
    }
  }
  if (chosen < 0 && refused < 0) {
    return Status::error("schedule: expected one of %s, got '%.60s'", Planner::kForcible, forced);
  }
  if (chosen < 0) return refusal(candidates[refused]);

  static_cast<typename Planner::Sizes&>(*plan) = sizes[chosen];
  plan->name = candidates[chosen].name;
  plan->modelled_seconds = candidates[chosen].modelled_seconds;
  plan->forced = forced;
  plan->rejection_count = 0;
  for (int i = 0; i < kCount; ++i) {
    if (i != chosen) plan->rejections[plan->rejection_count++] = candidates[i];
  }
  return {};
}

}  // namespace fusedrnn
