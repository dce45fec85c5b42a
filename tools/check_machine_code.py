"""Checks the machine code of the kernels that a sequence spends its time in; needs no GPU.

    python tools/check_machine_code.py fusedrnn/_C.so      or a .cubin of csrc/cuda/cell.cu

For every fused step of per_step, on every architecture in the file:

- nothing goes to local memory, and no access is generic;
- on tensor cores (sm_80 and later) the products are HMMA, and so many 16-byte loads of weights are
  on their way before the step before is waited for (sm_90 and later) and before the first product;
- with multiply-adds, the loads of the next tile are on their way before the tile is multiplied.

The status is 1 where one is not so. The table's columns are counts of instructions.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

import kernel_resources

# Loads that must be under way before the first product of a kernel: of the pieces of weights and
# rows ahead (schedules/tensor_matmul.cuh), or of the first tile (schedules/tile_matmul.cuh).
MIN_LOADS_TENSOR = 8
MIN_LOADS_TILE = 4  # of each column of the weights; four times as many where there is one


def min_loads(name: str) -> int:
    tile = re.search(r"TileMatMul<\w+, (\d+), \(.*?WeightLayout\)(\d)", name)
    if tile is None:
        return MIN_LOADS_TENSOR
    return MIN_LOADS_TILE * (4 if tile[2] == "1" else int(tile[1]))


class Code(NamedTuple):
    arch: int
    name: str
    instructions: list[str]

    def count(self, pattern: str) -> int:
        return sum(1 for one in self.instructions if re.match(pattern, one))

    def first(self, pattern: str) -> int | None:
        found = (i for i, one in enumerate(self.instructions) if re.match(pattern, one))
        return next(found, None)

    def last(self, pattern: str, end: int) -> int | None:
        found = [i for i, one in enumerate(self.instructions[:end]) if re.match(pattern, one)]
        return found[-1] if found else None


def parse(text: str) -> list[Code]:
    """The kernels in the output of `cuobjdump --dump-sass`, without predicates."""
    codes: list[Code] = []
    arch = 0
    for line in text.splitlines():
        if found := re.search(r"code for sm_(\d+)", line):
            arch = int(found[1])
        elif found := re.search(r"Function : (\S+)", line):
            codes.append(Code(arch, found[1], []))
        elif codes and (
            found := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(.*?)\s*;", line)
        ):
            codes[-1].instructions.append(found[1])
    return codes


def read(library: Path) -> list[Code]:
    codes = parse(kernel_resources.dump_sass(library))
    names = kernel_resources.demangle([code.name for code in codes])
    return [code._replace(name=name) for code, name in zip(codes, names, strict=True)]


def is_hot(code: Code) -> bool:
    return "PerStep<" in code.name and "ReadProduct" not in code.name


def loads_ahead(code: Code, product: str) -> int:
    """Global loads before the first product."""
    end = code.first(product)
    return Code(code.arch, code.name, code.instructions[:end]).count(r"LDG")


def faults(code: Code) -> list[str]:
    """What is wrong with a hot kernel."""
    found = []
    if local := code.count(r"(LDL|STL)\b"):
        found.append(f"{local} accesses to local memory")
    if generic := code.count(r"(LD|ST)\.E\b|(LD|ST) "):
        found.append(f"{generic} generic accesses")
    on_tensor_cores = "TensorMatMul" in code.name
    product, least = r"HMMA" if on_tensor_cores else r"[FD]FMA", min_loads(code.name)
    if on_tensor_cores and code.arch < 80:
        return found
    if not code.count(product):
        return [*found, f"no {product}"]
    if on_tensor_cores and (ahead := loads_ahead(code, product)) < least:
        found.append(f"{ahead} loads before the first product, expected {least}")
    if code.arch >= 90:
        # A block without rows waits too, at the start; the wait of the others is the last one.
        wait = code.last(r"ACQBULK", len(code.instructions))
        if wait is None:
            found.append("no wait for the launch before")
        else:
            before = Code(code.arch, code.name, code.instructions[:wait]).count(r"LDG.*CONSTANT")
            if before < least:
                found.append(f"{before} loads before the wait, expected {least}")
            if (store := code.first(r"STG")) is not None and store < wait:
                found.append("a store before the wait")
    return found


def render(codes: list[Code]) -> str:
    kinds = {
        "all": r".",
        "HMMA": r"HMMA",
        "FMA": r"[FD]FMA",
        "LDG": r"LDG",
        "LDG.128": r"LDG\S*128",
        "ahead": "",
        "LDS": r"LDS",
        "BAR": r"BAR",
        "IMAD": r"IMAD",
    }
    width = max((len(code.name) for code in codes), default=0)
    lines = [f"{'kernel':<{width}}  arch  " + "  ".join(f"{kind:>7}" for kind in kinds)]
    for code in codes:
        counts = [
            code.count(pattern)
            if pattern
            else loads_ahead(code, r"HMMA" if code.count(r"HMMA") else r"[FD]FMA")
            for pattern in kinds.values()
        ]
        lines.append(f"{code.name:<{width}}  {code.arch:4}  " + "  ".join(f"{n:7}" for n in counts))
    return "\n".join(lines)


def main() -> int:
    codes = sorted(code for code in read(Path(sys.argv[1])) if is_hot(code))
    print(render(codes))
    found = [f"{code.name} on sm_{code.arch}: {fault}" for code in codes for fault in faults(code)]
    print("\n".join(found))
    print(f"machine code of {len(codes)} fused steps, {len(found)} faults")
    return 1 if found or not codes else 0


if __name__ == "__main__":
    sys.exit(main())
