// make_plan: which schedule runs a layer, with which sizes, and why not the others.
//
// A pure function of its arguments: no allocation, no clock, no device call, so that
// decisions for any machine are tested on any other. cost.cpp has the time model.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/status.h"
#include "plan/device_info.h"
#include "plan/problem.h"

namespace fusedrnn {

enum class Schedule : int8_t { kPerStep, kPersistent };
constexpr int kScheduleCount = 2;

// How the threads of a persistent region share a step.
enum class Split : int8_t {
  kRows,   // each thread owns batch rows: no barrier
  kUnits,  // each thread owns hidden units with all their gates: one barrier a step
};

struct Rejection {
  Schedule schedule;
  char reason[160];  // what it needs and what there is, or how much slower it is modelled
};

struct Plan {
  Schedule schedule;
  Split split;              // persistent only
  int num_threads;          // at most CpuInfo::num_threads
  bool multiplies_input;    // persistent, cells without kSplit: the sweep projects the input
  int64_t chunk_steps;      // time steps whose input projection is computed at once
  double modelled_seconds;  // of the chosen schedule, forward or backward as in Problem
  int rejection_count;
  Rejection rejections[kScheduleCount];
};

const char* schedule_name(Schedule schedule);
const char* split_name(Split split);

// Chooses a schedule for one direction of a layer. `forced` is a schedule's name; null or empty
// chooses by modelled time. Forcing an unknown or impossible schedule is an error.
Status make_plan(const Problem& problem, const CpuInfo& cpu, const char* forced, Plan* plan);

// Writes the plan as text, a line each for the choice, its sizes and every rejection.
// Returns the length written, at most size - 1.
size_t print_plan(const Problem& problem, const CpuInfo& cpu, const Plan& plan, char* text,
                  size_t size);

// Time model (cost.cpp): seconds of one direction of the layer under that schedule.
double modelled_seconds(const Problem& problem, const CpuInfo& cpu, Schedule schedule, Split split,
                        int num_threads);

}  // namespace fusedrnn
