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
    {KernelForm::kFused, Pass::kForward, 1, 4, 0, 88, 32, 640},
    {KernelForm::kFused, Pass::kForward, 1, 8, 0, 98, 32, 694},
    {KernelForm::kFused, Pass::kForward, 3, 4, 0, 198, 96, 970},
    {KernelForm::kFused, Pass::kForward, 3, 8, 0, 207, 96, 1137},
    {KernelForm::kFused, Pass::kForward, 4, 4, 0, 251, 128, 1413},
    {KernelForm::kFused, Pass::kForward, 4, 8, 0, 265, 128, 1703},
    {KernelForm::kFused, Pass::kBackward, 1, 4, 0, 371, 128, 700},
    {KernelForm::kFused, Pass::kBackward, 1, 8, 0, 402, 128, 709},
    {KernelForm::kFused, Pass::kBackward, 3, 4, 0, 380, 128, 787},
    {KernelForm::kFused, Pass::kBackward, 3, 8, 0, 412, 128, 795},
    {KernelForm::kFused, Pass::kBackward, 4, 4, 0, 372, 128, 1044},
    {KernelForm::kFused, Pass::kBackward, 4, 8, 0, 409, 128, 1111},
    {KernelForm::kFusedTensor, Pass::kForward, 1, 2, 16, 221, 512, 803},
    {KernelForm::kFusedTensor, Pass::kForward, 1, 2, 32, 236, 768, 996},
    {KernelForm::kFusedTensor, Pass::kForward, 1, 4, 16, 282, 256, 798},
    {KernelForm::kFusedTensor, Pass::kForward, 1, 4, 32, 328, 384, 992},
    {KernelForm::kFusedTensor, Pass::kForward, 3, 2, 16, 236, 1152, 1108},
    {KernelForm::kFusedTensor, Pass::kForward, 3, 2, 32, 230, 1536, 1298},
    {KernelForm::kFusedTensor, Pass::kForward, 3, 4, 16, 320, 576, 1096},
    {KernelForm::kFusedTensor, Pass::kForward, 3, 4, 32, 299, 768, 1285},
    {KernelForm::kFusedTensor, Pass::kForward, 4, 2, 16, 242, 1536, 1566},
    {KernelForm::kFusedTensor, Pass::kForward, 4, 2, 32, 258, 2048, 1750},
    {KernelForm::kFusedTensor, Pass::kForward, 4, 4, 16, 383, 768, 1537},
    {KernelForm::kFusedTensor, Pass::kForward, 4, 4, 32, 343, 1024, 1729},
    {KernelForm::kFusedTensor, Pass::kBackward, 1, 2, 16, 455, 1024, 745},
    {KernelForm::kFusedTensor, Pass::kBackward, 1, 2, 32, 404, 1536, 1124},
    {KernelForm::kFusedTensor, Pass::kBackward, 1, 4, 16, 421, 512, 675},
    {KernelForm::kFusedTensor, Pass::kBackward, 1, 4, 32, 428, 768, 1060},
    {KernelForm::kFusedTensor, Pass::kBackward, 3, 2, 16, 425, 1024, 887},
    {KernelForm::kFusedTensor, Pass::kBackward, 3, 2, 32, 404, 1536, 1332},
    {KernelForm::kFusedTensor, Pass::kBackward, 3, 4, 16, 418, 512, 814},
    {KernelForm::kFusedTensor, Pass::kBackward, 3, 4, 32, 428, 768, 1236},
    {KernelForm::kFusedTensor, Pass::kBackward, 4, 2, 16, 427, 1024, 1109},
    {KernelForm::kFusedTensor, Pass::kBackward, 4, 2, 32, 396, 1536, 1796},
    {KernelForm::kFusedTensor, Pass::kBackward, 4, 4, 16, 422, 512, 1010},
    {KernelForm::kFusedTensor, Pass::kBackward, 4, 4, 32, 423, 768, 1673},
    {KernelForm::kPointwise, Pass::kForward, 1, 2, 0, 0, 0, 440},
    {KernelForm::kPointwise, Pass::kForward, 1, 4, 0, 0, 0, 432},
    {KernelForm::kPointwise, Pass::kForward, 1, 8, 0, 0, 0, 496},
    {KernelForm::kPointwise, Pass::kForward, 3, 2, 0, 0, 0, 688},
    {KernelForm::kPointwise, Pass::kForward, 3, 4, 0, 0, 0, 664},
    {KernelForm::kPointwise, Pass::kForward, 3, 8, 0, 0, 0, 816},
    {KernelForm::kPointwise, Pass::kForward, 4, 2, 0, 0, 0, 1104},
    {KernelForm::kPointwise, Pass::kForward, 4, 4, 0, 0, 0, 1080},
    {KernelForm::kPointwise, Pass::kForward, 4, 8, 0, 0, 0, 1344},
    {KernelForm::kPointwise, Pass::kBackward, 1, 2, 0, 0, 0, 360},
    {KernelForm::kPointwise, Pass::kBackward, 1, 4, 0, 0, 0, 352},
    {KernelForm::kPointwise, Pass::kBackward, 1, 8, 0, 0, 0, 360},
    {KernelForm::kPointwise, Pass::kBackward, 3, 2, 0, 0, 0, 464},
    {KernelForm::kPointwise, Pass::kBackward, 3, 4, 0, 0, 0, 440},
    {KernelForm::kPointwise, Pass::kBackward, 3, 8, 0, 0, 0, 440},
    {KernelForm::kPointwise, Pass::kBackward, 4, 2, 0, 0, 0, 728},
    {KernelForm::kPointwise, Pass::kBackward, 4, 4, 0, 0, 0, 704},
    {KernelForm::kPointwise, Pass::kBackward, 4, 8, 0, 0, 0, 768},
    {KernelForm::kSingleBlock, Pass::kForward, 1, 2, 1, 30, 4, 378},
    {KernelForm::kSingleBlock, Pass::kForward, 1, 2, 2, 34, 8, 700},
    {KernelForm::kSingleBlock, Pass::kForward, 1, 2, 4, 42, 16, 1032},
    {KernelForm::kSingleBlock, Pass::kForward, 1, 4, 1, 26, 4, 376},
    {KernelForm::kSingleBlock, Pass::kForward, 1, 4, 2, 30, 8, 684},
    {KernelForm::kSingleBlock, Pass::kForward, 1, 4, 4, 38, 16, 997},
    {KernelForm::kSingleBlock, Pass::kForward, 1, 8, 1, 26, 4, 474},
    {KernelForm::kSingleBlock, Pass::kForward, 1, 8, 2, 30, 8, 826},
    {KernelForm::kSingleBlock, Pass::kForward, 3, 2, 1, 62, 12, 518},
    {KernelForm::kSingleBlock, Pass::kForward, 3, 2, 2, 74, 24, 1007},
    {KernelForm::kSingleBlock, Pass::kForward, 3, 2, 4, 98, 48, 1691},
    {KernelForm::kSingleBlock, Pass::kForward, 3, 4, 1, 50, 12, 495},
    {KernelForm::kSingleBlock, Pass::kForward, 3, 4, 2, 62, 24, 973},
    {KernelForm::kSingleBlock, Pass::kForward, 3, 4, 4, 86, 48, 1639},
    {KernelForm::kSingleBlock, Pass::kForward, 3, 8, 1, 50, 12, 725},
    {KernelForm::kSingleBlock, Pass::kForward, 3, 8, 2, 62, 24, 1297},
    {KernelForm::kSingleBlock, Pass::kForward, 4, 2, 1, 78, 16, 851},
    {KernelForm::kSingleBlock, Pass::kForward, 4, 2, 2, 94, 32, 1420},
    {KernelForm::kSingleBlock, Pass::kForward, 4, 2, 4, 126, 64, 2669},
    {KernelForm::kSingleBlock, Pass::kForward, 4, 4, 1, 62, 16, 811},
    {KernelForm::kSingleBlock, Pass::kForward, 4, 4, 2, 78, 32, 1362},
    {KernelForm::kSingleBlock, Pass::kForward, 4, 4, 4, 110, 64, 2553},
    {KernelForm::kSingleBlock, Pass::kForward, 4, 8, 1, 62, 16, 1120},
    {KernelForm::kSingleBlock, Pass::kForward, 4, 8, 2, 78, 32, 1891},
    {KernelForm::kSingleBlock, Pass::kBackward, 1, 2, 1, 42, 6, 442},
    {KernelForm::kSingleBlock, Pass::kBackward, 1, 2, 2, 49, 12, 2079},
    {KernelForm::kSingleBlock, Pass::kBackward, 1, 2, 4, 60, 24, 1312},
    {KernelForm::kSingleBlock, Pass::kBackward, 1, 4, 1, 36, 6, 427},
    {KernelForm::kSingleBlock, Pass::kBackward, 1, 4, 2, 42, 12, 724},
    {KernelForm::kSingleBlock, Pass::kBackward, 1, 4, 4, 55, 24, 2865},
    {KernelForm::kSingleBlock, Pass::kBackward, 1, 8, 1, 36, 6, 424},
    {KernelForm::kSingleBlock, Pass::kBackward, 1, 8, 2, 43, 12, 2029},
    {KernelForm::kSingleBlock, Pass::kBackward, 3, 2, 1, 42, 6, 539},
    {KernelForm::kSingleBlock, Pass::kBackward, 3, 2, 2, 48, 12, 945},
    {KernelForm::kSingleBlock, Pass::kBackward, 3, 2, 4, 60, 24, 1739},
    {KernelForm::kSingleBlock, Pass::kBackward, 3, 4, 1, 36, 6, 511},
    {KernelForm::kSingleBlock, Pass::kBackward, 3, 4, 2, 43, 12, 1981},
    {KernelForm::kSingleBlock, Pass::kBackward, 3, 4, 4, 54, 24, 1648},
    {KernelForm::kSingleBlock, Pass::kBackward, 3, 8, 1, 36, 6, 510},
    {KernelForm::kSingleBlock, Pass::kBackward, 3, 8, 2, 43, 12, 1997},
    {KernelForm::kSingleBlock, Pass::kBackward, 4, 2, 1, 43, 6, 1885},
    {KernelForm::kSingleBlock, Pass::kBackward, 4, 2, 2, 48, 12, 1233},
    {KernelForm::kSingleBlock, Pass::kBackward, 4, 2, 4, 61, 24, 4203},
    {KernelForm::kSingleBlock, Pass::kBackward, 4, 4, 1, 37, 6, 1827},
    {KernelForm::kSingleBlock, Pass::kBackward, 4, 4, 2, 42, 12, 1173},
    {KernelForm::kSingleBlock, Pass::kBackward, 4, 4, 4, 54, 24, 2420},
    {KernelForm::kSingleBlock, Pass::kBackward, 4, 8, 1, 36, 6, 845},
    {KernelForm::kSingleBlock, Pass::kBackward, 4, 8, 2, 42, 12, 1387},
};
// clang-format on

}  // namespace fusedrnn
