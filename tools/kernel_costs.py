"""What the compiled kernels do, as the planner counts it: csrc/plan/cuda_kernel_costs.h.

    python tools/kernel_costs.py build/gpu-day/lib/fusedrnn/_C.so          # prints the table
    python tools/kernel_costs.py build/gpu-day/lib/fusedrnn/_C.so --write  # and stores it

The library is one with kernels for compute capability 9.0a, as `make gpu-day` builds it. Of each
kernel the innermost loop with most multiply-adds is found in what `cuobjdump --dump-sass` prints
(it needs nvdisasm; the package triton has both): its instructions, and how many multiply-adds a
thread's share of an iteration is. The rest of the step is counted once: the loop around that one,
where there is one, else the whole kernel.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import NamedTuple

import kernel_resources

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "csrc" / "plan" / "cuda_kernel_costs.h"
ARCHITECTURE = "sm_90a"
# One of the 16-bit types stands for both.
STORAGES = {"float": 4, "double": 8, "BFloat16": 2}
# Multiply-adds of a thread's share of an instruction.
WORK = {r"[FD]FMA\b": 1, r"HMMA\.16816\b": 64, r"HMMA\.1688\b": 32}
# By how much the table may be off.
TOLERANCE = 0.2
# Of a thread in a tile of the fused step without tensor cores, where the tile is a loop of its own:
# backward, kDepth * kFusedRows * kFusedUnits / kFusedThreads of tile_matmul.cuh.
TILE_FMAS = 128


class Cost(NamedTuple):
    """A row of the table."""

    kernel: str  # a KernelForm
    is_backward: bool
    gates: int
    storage_bytes: int
    rows: int  # of a thread of single_block, of a block on tensor cores; else 0
    loop: int  # instructions of an iteration
    fmas: int  # multiply-adds of a thread in it
    around: int  # instructions of a step besides


def disassemble(library: Path) -> dict[str, list[tuple[int, str]]]:
    """The instructions of each kernel for ARCHITECTURE, by mangled name, with their addresses."""
    text = kernel_resources.dump_sass(library, "--gpu-architecture", ARCHITECTURE)
    kernels: dict[str, list[tuple[int, str]]] = {}
    instructions: list[tuple[int, str]] = []
    for line in text.splitlines():
        if "Function : " in line:
            instructions = kernels.setdefault(line.split("Function : ")[1].strip(), [])
        elif match := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", line):
            instructions.append((int(match[1], 16), match[2]))
    return kernels


def measure(instructions: list[tuple[int, str]], tile_fmas: int) -> tuple[int, int, int]:
    """`loop`, `fmas` and `around` of a kernel; 0, 0 and its length where no loop multiplies.

    With `tile_fmas` a loop around the innermost one is over tiles, in each of which a thread has so
    many multiply-adds, and counts as the loop.
    """
    places = {address: place for place, (address, _) in enumerate(instructions)}
    loops = set()
    for place, (_, text) in enumerate(instructions):
        if (match := re.search(r"\bBRA\b.*?(0x[0-9a-f]+)", text)) is not None:
            target = places.get(int(match[1], 16), place)
            if target < place:
                loops.add((target, place + 1))

    def work(begin: int, end: int) -> int:
        texts = (re.sub(r"^@!?U?P\w+\s+", "", text) for _, text in instructions[begin:end])
        return sum(n for t in texts for pattern, n in WORK.items() if re.match(pattern, t))

    inner = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    best = max(inner, key=lambda a: work(*a), default=None)
    if best is None or work(*best) == 0:
        return 0, 0, len(instructions)
    outer = [a for a in loops if a != best and a[0] <= best[0] and best[1] <= a[1]]
    length, fmas = best[1] - best[0], work(*best)
    whole = min((a[1] - a[0] for a in outer), default=len(instructions))
    if outer and tile_fmas:
        again = tile_fmas // fmas - 1
        return whole + again * length, tile_fmas, len(instructions) - whole
    return length, fmas, whole - length


def cells() -> dict[str, int]:
    """The cell that stands for those with as many gates, by the shortest name, and the gates."""
    of_gates: dict[int, str] = {}
    for header in sorted((ROOT / "csrc" / "cells").glob("*.h")):
        text = header.read_text()
        gates = [int(number) for number in re.findall(r"\bkGates = (\d+);", text)]
        for name in re.findall(r"^FUSEDRNN_CELL\((\w+)\)", text, re.MULTILINE):
            known = of_gates.get(gates[0], name)
            of_gates[gates[0]] = max(name, known, key=lambda n: (-len(n), n))
    return {name: gates for gates, name in of_gates.items()}


def read(library: Path) -> list[Cost]:
    kernels = disassemble(library)
    names = kernel_resources.demangle(list(kernels))
    costs, gates = [], cells()
    for name, instructions in zip(names, kernels.values(), strict=True):
        pattern = r"(Forward|Backward)(PerStep|SingleBlock)<(\w+), (\w+), (.*)>$"
        match = re.match(pattern, name)
        if not match or match[3] not in gates or match[4] not in STORAGES:
            continue
        form = match[5]
        rows = 0
        if match[2] == "SingleBlock":
            kernel, rows = "kSingleBlock", int(form.split(",")[0])
        elif tensor := re.search(r"TensorMatMul<.*, (\d+), \(\w+\)(\d)>", form):
            if tensor[2] != "0":
                continue  # element by element: for sizes that are no multiples of a packet
            kernel, rows = "kFusedTensor", 16 * int(tensor[1])
        elif "TileMatMul" in form:
            kernel = "kFused"
        else:
            kernel = "kPointwise"
        key = (kernel, match[1] == "Backward", gates[match[3]], STORAGES[match[4]], rows)
        costs.append(Cost(*key, *measure(instructions, TILE_FMAS if kernel == "kFused" else 0)))
    return sorted(costs)


def render(costs: list[Cost]) -> str:
    lines = []
    for c in costs:
        which = "kBackward" if c.is_backward else "kForward"
        numbers = ", ".join(map(str, c[2:]))
        lines.append(f"    {{KernelForm::{c.kernel}, Pass::{which}, {numbers}}},\n")
    return "".join(lines)


def stored() -> list[Cost]:
    """The table as it is."""
    rows = re.findall(r"\{KernelForm::(\w+), Pass::k(\w+), ([\d, ]+)\},", TABLE.read_text())
    return [
        Cost(kernel, which == "Backward", *map(int, numbers.split(", ")))
        for kernel, which, numbers in rows
    ]


def differences(table: list[Cost], compiled: list[Cost]) -> list[str]:
    """What the table lacks, has too much, or has wrong by more than a fifth."""
    known = {cost[:5]: cost for cost in table}
    found = {cost[:5]: cost for cost in compiled}
    texts = []
    for key in sorted(known.keys() | found.keys()):
        one, other = known.get(key), found.get(key)
        if one is None or other is None:
            texts.append(f"{key}: {'not in the table' if one is None else 'not compiled'}")
            continue
        for name in ("loop", "fmas", "around"):
            wanted, has = getattr(other, name), getattr(one, name)
            if abs(has - wanted) > TOLERANCE * wanted:
                texts.append(f"{key}: {name} is {has} in the table, {wanted} in the machine code")
    remedy = f"run: python tools/kernel_costs.py LIBRARY --write, for {ARCHITECTURE}"
    return [*texts, remedy] if texts else []


def write(costs: list[Cost]) -> None:
    text = TABLE.read_text()
    begin = text.index("kKernelCosts[] = {\n") + len("kKernelCosts[] = {\n")
    TABLE.write_text(text[:begin] + render(costs) + text[text.index("};\n", begin) :])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("library", type=Path)
    parser.add_argument("--write", action="store_true", help=f"into {TABLE.relative_to(ROOT)}")
    options = parser.parse_args()
    costs = read(options.library)
    print(render(costs), end="")
    if not costs:
        sys.exit(f"{options.library}: no kernel for {ARCHITECTURE}")
    if options.write:
        write(costs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
