"""Registers, stack and shared memory of every kernel in a compiled library.

    python tools/kernel_resources.py fusedrnn/_C.so

The figures are those that `cuobjdump --dump-resource-usage` reads. Stack is where a kernel keeps
what its registers do not hold: no kernel here is meant to need any, and the status is 1 if one
does. Shared memory that is asked for at launch is not in the file; plans print it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple


class Kernel(NamedTuple):
    arch: str
    name: str
    registers: int
    stack: int
    shared: int
    local: int


def find_tool(name: str) -> str | None:
    """On PATH, in the toolkit, or in a package of this environment: nvidia-cuda-NAME, triton."""
    found = shutil.which(name)
    if found:
        return found
    import cuda_toolkit

    places = [Path(cuda_toolkit.find_home() or "/", "bin", name)]
    for folder in sys.path:
        places += Path(folder).glob(f"nvidia/*/bin/{name}")
        places += Path(folder).glob(f"triton/backends/nvidia/bin/{name}")
    for path in places:
        if path.is_file():
            path.chmod(path.stat().st_mode | 0o111)  # pip keeps no such bit
            return str(path)
    return None


def need_tool(name: str) -> str:
    found = find_tool(name)
    if found is None:
        sys.exit(f"{name} is missing; run: pip install nvidia-cuda-{name}")
    return found


def dump_sass(library: Path, *options: str) -> str:
    """The machine code of every kernel, as `cuobjdump --dump-sass` prints it."""
    # cuobjdump calls nvdisasm.
    folder = Path(need_tool("nvdisasm")).parent
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    command = [need_tool("cuobjdump"), "--dump-sass", *options, str(library)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"status {done.returncode}: {' '.join(command)}\n{done.stderr}")
    return done.stdout


def parse(text: str) -> list[Kernel]:
    """The kernels in the output of `cuobjdump --dump-resource-usage`."""
    kernels, arch, name = [], "", ""
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("arch ="):
            arch = line.split("=")[1].strip()
        elif line.startswith("Function "):
            name = line.removeprefix("Function ").rstrip(":")
        elif line.startswith("REG:"):
            values = dict(re.findall(r"([A-Z]+):(\d+)", line))
            numbers = (int(values.get(key, 0)) for key in ("REG", "STACK", "SHARED", "LOCAL"))
            kernels.append(Kernel(arch, name, *numbers))
    return kernels


def read(library: Path) -> list[Kernel]:
    """The library's kernels with readable names, a row for each architecture."""
    command = [need_tool("cuobjdump"), "--dump-resource-usage", str(library)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    kernels = parse(text)
    names = demangle([kernel.name for kernel in kernels])
    return [kernel._replace(name=name) for kernel, name in zip(kernels, names, strict=True)]


def render(kernels: list[Kernel]) -> str:
    """One line a kernel: its largest numbers over the architectures that are in the file."""
    grouped: dict[str, list[Kernel]] = {}
    for kernel in kernels:
        grouped.setdefault(kernel.name, []).append(kernel)
    architectures = sorted({kernel.arch for kernel in kernels}, key=lambda name: (len(name), name))
    width = max((len(name) for name in grouped), default=0)
    lines = [f"{'kernel':<{width}}  registers {' '.join(architectures)}  stack  shared  local"]
    for name, rows in sorted(grouped.items()):
        registers = {row.arch: row.registers for row in rows}
        cells = " ".join(f"{registers.get(arch, '-'):>{len(arch)}}" for arch in architectures)
        stack, shared, local = (
            max(getattr(row, field) for row in rows) for field in ("stack", "shared", "local")
        )
        lines.append(f"{name:<{width}}            {cells}  {stack:5}  {shared:6}  {local:5}")
    return "\n".join(lines)


def spilled(kernels: list[Kernel]) -> list[Kernel]:
    """The kernels that need stack."""
    return [kernel for kernel in kernels if kernel.stack or kernel.local]


def demangle(names: list[str]) -> list[str]:
    """Short readable names where there is a demangler, else the names as they are."""
    if not names or shutil.which("c++filt") is None:
        return names
    done = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    )
    return [_shorten(name) for name in done.stdout.splitlines()]


def _shorten(name: str) -> str:
    """`void fusedrnn::kernel_entry<Kernel<...> >(...)` as `Kernel<...>`."""
    name = re.sub(r"fusedrnn::|baseline::|\(anonymous namespace\)::", "", name)
    inner = re.search(r"kernel_entry<(.*)>\(", name)
    return (inner[1] if inner else name.removeprefix("void ")).strip()


def main() -> int:
    kernels = read(Path(sys.argv[1]))
    print(render(kernels))
    found = spilled(kernels)
    for kernel in found:
        print(f"spills on {kernel.arch}: {kernel.name}: {kernel.stack} bytes of stack")
    print(f"{len(kernels)} compiled kernels, {len(found)} that spill")
    return 1 if found or not kernels else 0


if __name__ == "__main__":
    sys.exit(main())
