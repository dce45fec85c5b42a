// What the planners of both devices share: the schedules, of which a plan chooses one for a layer.
//
// make_plan and make_cuda_plan say which schedule runs it, with which sizes, and why not the
// others. They are pure functions of their arguments: no allocation, no clock, no device call, so
// that decisions for any machine are tested on any other.
#pragma once

#include <cstdint>

namespace fusedrnn {

enum class Schedule : int8_t { kPerStep, kPersistent, kSingleBlock };
constexpr int kScheduleCount = 3;
constexpr int kCpuScheduleCount = 2;  // the first ones

const char* schedule_name(Schedule schedule);

}  // namespace fusedrnn
