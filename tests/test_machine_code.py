"""tools/check_machine_code.py on machine code that is right, and with each fault it looks for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

import check_machine_code  # noqa: E402

NAME = "ForwardPerStep<Lstm, BFloat16, TensorMatMul<BFloat16, 4, (WeightLayout)0, 1, (Loads)0> >"
RIGHT = [
    *["LDG.E.128.CONSTANT R4, desc[UR4][R2.64]"] * 8,
    "ACQBULK",
    "LDG.E.128 R8, desc[UR4][R6.64]",
    "HMMA.16816.F32.BF16 R4, R8, R12, R4",
    "STG.E.U16 desc[UR4][R2.64], R4",
]


def code_of(instructions: list[str]) -> check_machine_code.Code:
    lines = ["\tcode for sm_90", "\t\tFunction : kernel"]
    lines += [f"        /*{16 * i:04x}*/        @P0 {one} ;" for i, one in enumerate(instructions)]
    (code,) = check_machine_code.parse("\n".join(lines))
    assert code.instructions == instructions
    return code._replace(name=NAME)


def test_right_code_has_no_fault() -> None:
    assert check_machine_code.faults(code_of(RIGHT)) == []


@pytest.mark.parametrize(
    ("instructions", "says"),
    [
        ([*RIGHT, "STL [R1], R4"], "local memory"),
        ([*RIGHT, "LD.E R4, [R2.64]"], "generic"),
        ([one for one in RIGHT if "HMMA" not in one], "no HMMA"),
        ([one for one in RIGHT if "ACQBULK" not in one], "no wait"),
        (RIGHT[5:], "loads before the first product"),
        ([RIGHT[8], *RIGHT[:8], *RIGHT[9:]], "loads before the wait"),
        ([RIGHT[-1], *RIGHT], "a store before the wait"),
    ],
)
def test_fault_is_found(instructions: list[str], says: str) -> None:
    assert any(says in fault for fault in check_machine_code.faults(code_of(instructions)))
