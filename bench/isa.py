"""Runs on an older instruction set than the machine has.

All libraries but those that have no setting for all of it are held to the same set, by environment
variables that they read when their processes start.
"""

from __future__ import annotations

import os

VARIABLES = {
    "avx2": {
        "FUSEDRNN_CPU_ISA": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",  # torch's own kernels, and what torch.compile writes
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    },
}


def force(isa: str) -> None:
    """Hold every process that is started from now on."""
    os.environ.update(VARIABLES[isa])


def forced() -> str | None:
    """The instruction set that the environment holds all libraries to; None if it does not."""
    for isa, variables in VARIABLES.items():
        if variables.items() <= os.environ.items():
            return isa
    return None
