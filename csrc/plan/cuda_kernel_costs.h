// What the compiled kernels do, read from the machine code for compute capability 9.0a by
// tools/kernel_costs.py --write, which has written the table. A test compares it with a build.
#pragma once

#include "plan/cuda_plan.h"

namespace fusedrnn {

enum class KernelForm : int8_t { kPointwise, kFused, kFusedTensor, kSingleBlock };

// A kernel of the cells with so many gates.
struct KernelCost {
  KernelForm form;
  Pass pass;
  int gates;
  int storage_bytes;
  int rows;    // of a thread of single_block, of a block on tensor cores; else 0
  int loop;    // instructions of an iteration of its product
  int fmas;    // multiply-adds of a thread in it
  int around;  // instructions of a step besides
};

// clang-format off
constexpr KernelCost kKernelCosts[] = {
    {KernelForm::kFused, Pass::kForward, 1, 2, 0, 176, 32, 664},
    {KernelForm::kFused, Pass::kForward, 1, 4, 0, 170, 32, 646},
    {KernelForm::kFused, Pass::kForward, 1, 8, 0, 180, 32, 700},
    {KernelForm::kFused, Pass::kForward, 3, 2, 0, 400, 96, 1128},
    {KernelForm::kFused, Pass::kForward, 3, 4, 0, 390, 96, 1098},
    {KernelForm::kFused, Pass::kForward, 3, 8, 0, 380, 96, 1276},
    {KernelForm::kFused, Pass::kForward, 4, 2, 0, 573, 128, 1659},
    {KernelForm::kFused, Pass::kForward, 4, 4, 0, 556, 128, 1612},
    {KernelForm::kFused, Pass::kForward, 4, 8, 0, 572, 128, 1908},
    {KernelForm::kFused, Pass::kBackward, 1, 2, 0, 578, 128, 869},
    {KernelForm::kFused, Pass::kBackward, 1, 4, 0, 578, 128, 829},
    {KernelForm::kFused, Pass::kBackward, 1, 8, 0, 614, 128, 841},
    {KernelForm::kFused, Pass::kBackward, 3, 2, 0, 575, 128, 984},
    {KernelForm::kFused, Pass::kBackward, 3, 4, 0, 567, 128, 920},
    {KernelForm::kFused, Pass::kBackward, 3, 8, 0, 606, 128, 929},
    {KernelForm::kFused, Pass::kBackward, 4, 2, 0, 571, 128, 1252},
    {KernelForm::kFused, Pass::kBackward, 4, 4, 0, 561, 128, 1190},
    {KernelForm::kFused, Pass::kBackward, 4, 8, 0, 602, 128, 1253},
    {KernelForm::kPointwise, Pass::kForward, 1, 2, 0, 0, 0, 408},
    {KernelForm::kPointwise, Pass::kForward, 1, 4, 0, 0, 0, 400},
    {KernelForm::kPointwise, Pass::kForward, 1, 8, 0, 0, 0, 456},
    {KernelForm::kPointwise, Pass::kForward, 3, 2, 0, 0, 0, 632},
    {KernelForm::kPointwise, Pass::kForward, 3, 4, 0, 0, 0, 608},
    {KernelForm::kPointwise, Pass::kForward, 3, 8, 0, 0, 0, 736},
    {KernelForm::kPointwise, Pass::kForward, 4, 2, 0, 0, 0, 1048},
    {KernelForm::kPointwise, Pass::kForward, 4, 4, 0, 0, 0, 1024},
    {KernelForm::kPointwise, Pass::kForward, 4, 8, 0, 0, 0, 1256},
    {KernelForm::kPointwise, Pass::kBackward, 1, 2, 0, 0, 0, 384},
    {KernelForm::kPointwise, Pass::kBackward, 1, 4, 0, 0, 0, 376},
    {KernelForm::kPointwise, Pass::kBackward, 1, 8, 0, 0, 0, 376},
    {KernelForm::kPointwise, Pass::kBackward, 3, 2, 0, 0, 0, 528},
    {KernelForm::kPointwise, Pass::kBackward, 3, 4, 0, 0, 0, 504},
    {KernelForm::kPointwise, Pass::kBackward, 3, 8, 0, 0, 0, 504},
    {KernelForm::kPointwise, Pass::kBackward, 4, 2, 0, 0, 0, 712},
    {KernelForm::kPointwise, Pass::kBackward, 4, 4, 0, 0, 0, 688},
    {KernelForm::kPointwise, Pass::kBackward, 4, 8, 0, 0, 0, 744},
    {KernelForm::kSingleBlock, Pass::kForward, 1, 2, 1, 30, 4, 373},
    {KernelForm::kSingleBlock, Pass::kForward, 1, 2, 2, 34, 8, 687},
    {KernelForm::kSingleBlock, Pass::kForward, 1, 2, 4, 42, 16, 1013},
    {KernelForm::kSingleBlock, Pass::kForward, 1, 4, 1, 26, 4, 363},
    {KernelForm::kSingleBlock, Pass::kForward, 1, 4, 2, 30, 8, 666},
    {KernelForm::kSingleBlock, Pass::kForward, 1, 4, 4, 38, 16, 957},
    {KernelForm::kSingleBlock, Pass::kForward, 1, 8, 1, 26, 4, 469},
    {KernelForm::kSingleBlock, Pass::kForward, 1, 8, 2, 30, 8, 809},
    {KernelForm::kSingleBlock, Pass::kForward, 3, 2, 1, 62, 12, 513},
    {KernelForm::kSingleBlock, Pass::kForward, 3, 2, 2, 74, 24, 994},
    {KernelForm::kSingleBlock, Pass::kForward, 3, 2, 4, 98, 48, 1664},
    {KernelForm::kSingleBlock, Pass::kForward, 3, 4, 1, 50, 12, 490},
    {KernelForm::kSingleBlock, Pass::kForward, 3, 4, 2, 62, 24, 956},
    {KernelForm::kSingleBlock, Pass::kForward, 3, 4, 4, 86, 48, 1597},
    {KernelForm::kSingleBlock, Pass::kForward, 3, 8, 1, 50, 12, 713},
    {KernelForm::kSingleBlock, Pass::kForward, 3, 8, 2, 62, 24, 1280},
    {KernelForm::kSingleBlock, Pass::kForward, 4, 2, 1, 78, 16, 837},
    {KernelForm::kSingleBlock, Pass::kForward, 4, 2, 2, 94, 32, 1544},
    {KernelForm::kSingleBlock, Pass::kForward, 4, 2, 4, 126, 64, 2647},
    {KernelForm::kSingleBlock, Pass::kForward, 4, 4, 1, 62, 16, 802},
    {KernelForm::kSingleBlock, Pass::kForward, 4, 4, 2, 78, 32, 1477},
    {KernelForm::kSingleBlock, Pass::kForward, 4, 4, 4, 110, 64, 2532},
    {KernelForm::kSingleBlock, Pass::kForward, 4, 8, 1, 62, 16, 1111},
    {KernelForm::kSingleBlock, Pass::kForward, 4, 8, 2, 78, 32, 2018},
    {KernelForm::kSingleBlock, Pass::kBackward, 1, 2, 1, 54, 8, 448},
    {KernelForm::kSingleBlock, Pass::kBackward, 1, 2, 2, 62, 16, 896},
    {KernelForm::kSingleBlock, Pass::kBackward, 1, 2, 4, 78, 32, 2810},
    {KernelForm::kSingleBlock, Pass::kBackward, 1, 4, 1, 46, 8, 427},
    {KernelForm::kSingleBlock, Pass::kBackward, 1, 4, 2, 54, 16, 875},
    {KernelForm::kSingleBlock, Pass::kBackward, 1, 4, 4, 70, 32, 1197},
    {KernelForm::kSingleBlock, Pass::kBackward, 1, 8, 1, 46, 8, 1466},
    {KernelForm::kSingleBlock, Pass::kBackward, 1, 8, 2, 54, 16, 2138},
    {KernelForm::kSingleBlock, Pass::kBackward, 3, 2, 1, 54, 8, 556},
    {KernelForm::kSingleBlock, Pass::kBackward, 3, 2, 2, 62, 16, 2602},
    {KernelForm::kSingleBlock, Pass::kBackward, 3, 2, 4, 78, 32, 1664},
    {KernelForm::kSingleBlock, Pass::kBackward, 3, 4, 1, 46, 8, 1394},
    {KernelForm::kSingleBlock, Pass::kBackward, 3, 4, 2, 54, 16, 2482},
    {KernelForm::kSingleBlock, Pass::kBackward, 3, 4, 4, 70, 32, 1569},
    {KernelForm::kSingleBlock, Pass::kBackward, 3, 8, 1, 46, 8, 528},
    {KernelForm::kSingleBlock, Pass::kBackward, 3, 8, 2, 54, 16, 1030},
    {KernelForm::kSingleBlock, Pass::kBackward, 4, 2, 1, 54, 8, 799},
    {KernelForm::kSingleBlock, Pass::kBackward, 4, 2, 2, 62, 16, 1240},
    {KernelForm::kSingleBlock, Pass::kBackward, 4, 2, 4, 78, 32, 4114},
    {KernelForm::kSingleBlock, Pass::kBackward, 4, 4, 1, 46, 8, 1778},
    {KernelForm::kSingleBlock, Pass::kBackward, 4, 4, 2, 54, 16, 2442},
    {KernelForm::kSingleBlock, Pass::kBackward, 4, 4, 4, 70, 32, 2386},
    {KernelForm::kSingleBlock, Pass::kBackward, 4, 8, 1, 46, 8, 1834},
    {KernelForm::kSingleBlock, Pass::kBackward, 4, 8, 2, 54, 16, 1403},
};
// clang-format on

}  // namespace fusedrnn
