"""tools/kernel_costs.py: what it reads in machine code, and that it finds a table that is off."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parent.parent / "tools"
if not TOOLS.is_dir():
    pytest.skip("the sources are not here: an installed package is tested", allow_module_level=True)
sys.path.insert(0, str(TOOLS))
import kernel_costs  # noqa: E402


def program(*texts: str) -> list[tuple[int, str]]:
    return [(16 * place, text) for place, text in enumerate(texts)]


STEP = program(
    "LDG.E R1, [R2]",  # 0x00
    "FFMA R0, R1, R2, R3",  # 0x10, before any loop
    "@!P0 BRA 0x50",  # 0x20, forward
    "LDS R4, [R5]",  # 0x30
    "IADD3 R5, R5, 0x4, RZ",  # 0x40
    "FFMA R0, R4, R2, R0",  # 0x50
    "@P1 FFMA R1, R4, R2, R1",  # 0x60
    "@P2 BRA 0x50",  # 0x70: the innermost loop
    "@P3 BRA 0x30",  # 0x80: the loop around it
    "STG.E [R2], R0",  # 0x90
    "EXIT",  # 0xa0
)


def test_the_innermost_loop_that_multiplies_is_counted() -> None:
    # Three instructions with two multiply-adds; the loop around has three more.
    assert kernel_costs.measure(STEP, tile_fmas=0) == (3, 2, 3)


def test_a_loop_over_tiles_is_the_loop() -> None:
    # Eight multiply-adds a tile: the innermost loop four times, and three instructions.
    assert kernel_costs.measure(STEP, tile_fmas=8) == (4 * 3 + 3, 8, 11 - 6)


def test_matrix_instructions_are_many_multiply_adds() -> None:
    wide = "HMMA.16816.F32.BF16 R0, R4, R8, R0"
    narrow = "HMMA.1688.F32.TF32 R0, R4, R8, R0"
    step = program("NOP", wide, narrow, "@P0 BRA 0x10", "EXIT")
    assert kernel_costs.measure(step, tile_fmas=0) == (3, 96, 2)


def test_a_kernel_without_a_product_is_counted_whole() -> None:
    assert kernel_costs.measure(program("NOP", "@P0 BRA 0x0", "EXIT"), 0) == (0, 0, 3)


def test_a_table_that_is_off_is_found() -> None:
    table = kernel_costs.stored()
    assert len(table) > 50 and table == sorted(table)
    assert kernel_costs.differences(table, table) == []
    off = [table[0]._replace(around=table[0].around * 3 // 4), *table[1:]]
    [text, remedy] = kernel_costs.differences(off, table)
    assert "around is" in text and "--write" in remedy
    slightly = [table[0]._replace(around=table[0].around * 9 // 10), *table[1:]]
    assert kernel_costs.differences(slightly, table) == []
    assert "not in the table" in kernel_costs.differences(table[1:], table)[0]
    assert "not compiled" in kernel_costs.differences(table, table[1:])[0]


def test_the_table_is_what_the_tool_writes() -> None:
    assert kernel_costs.render(kernel_costs.stored()) in kernel_costs.TABLE.read_text()
