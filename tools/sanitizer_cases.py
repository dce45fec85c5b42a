"""Runs every CUDA kernel on small layers, for compute-sanitizer; results are compared too.

    compute-sanitizer --tool memcheck python tools/sanitizer_cases.py memcheck

Every cell, dtype and schedule, forward and backward, at sizes of one and of one over each tile.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from cases import CELLS, DTYPES, assert_close, tolerance  # noqa: E402
from layer_cases import make_layer, operator, oracle  # noqa: E402

SCHEDULES = ("per_step/product", "per_step/fused", "single_block")
SIZES = ((1, 1, 1, 1), (3, 9, 5, 33))


def main() -> int:
    tool = sys.argv[1] if len(sys.argv) > 1 else "no tool"
    count = 0
    for cell in CELLS:
        for dtype in DTYPES:
            for schedule in (*SCHEDULES, "packed", "projection"):
                os.environ["FUSEDRNN_SCHEDULE"] = schedule if schedule in SCHEDULES else "per_step"
                options = {"packed": schedule == "packed"}
                if schedule == "projection":
                    options["proj_size"] = 1
                for sizes in SIZES:
                    if schedule == "projection" and (cell != "lstm" or sizes[3] == 1):
                        continue
                    torch.manual_seed(count)
                    layer = make_layer(
                        cell, dtype, sizes=sizes, bidirectional=True, device="cuda", **options
                    )
                    expected = oracle(layer.map(torch.Tensor.cpu))
                    for name, actual in operator(layer).items():
                        assert_close(actual, expected[name], tolerance(dtype, 26), name)
                    count += 1
    print(f"{tool}: {count} layers, forward and backward, equal to the float64 reference")
    return 0


if __name__ == "__main__":
    sys.exit(main())
