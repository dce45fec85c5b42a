"""Finds the CUDA toolkit and says for which GPUs to compile; used by setup.py and the tools."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

# Turing, Ampere, Ada, Hopper and both Blackwells. A binary runs on its own generation (the major
# number) from that capability on.
DEFAULT_ARCHITECTURES = "7.5;8.0;8.9;9.0a;10.0;12.0"


def find_home() -> str | None:
    """The toolkit's folder: CUDA_HOME, else that of the nvcc on PATH, else the usual one.

    nvcc on PATH may be a script that calls the nvcc of a toolkit elsewhere, so it is asked where
    it lies.
    """
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home:
        return home
    nvcc = shutil.which("nvcc")
    if nvcc:
        told = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True).stderr
        top = re.search(r"\bTOP=(.+)", told)
        if top:
            return str(Path(top[1].strip()).resolve())
    usual = Path("/usr/local/cuda")
    return str(usual) if (usual / "bin" / "nvcc").exists() else None


def release(home: str) -> str:
    """The version of a toolkit's nvcc, such as "13.0"; empty where it does not tell."""
    try:
        command = [str(Path(home, "bin", "nvcc")), "--version"]
        told = subprocess.run(command, capture_output=True, text=True).stdout
    except OSError:
        return ""
    found = re.search(r"release (\d+\.\d+)", told)
    return found[1] if found else ""


def _numbers(architectures: str) -> list[tuple[int, str]]:
    """Of a list such as "7.5;9.0a", in order: (75, "") and (90, "a")."""
    numbers = set()
    for name in re.split(r"[;,\s]+", architectures.strip()):
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)(?:\+PTX)?", name)
        if not match:
            raise ValueError(
                f"TORCH_CUDA_ARCH_LIST: expected compute capabilities such as "
                f"{DEFAULT_ARCHITECTURES}, got {name!r}"
            )
        numbers.add((int(match[1] + match[2]), match[3]))
    return sorted(numbers)


def gencode_flags(architectures: str, one_a_generation: bool = False) -> list[str]:
    """nvcc's flags for a list such as "7.5;9.0a": binaries, and PTX of the newest for later GPUs.

    PTX of an architecture with a suffix would run on that one alone, so it has none.

    Args:
        architectures: compute capabilities, as in TORCH_CUDA_ARCH_LIST.
        one_a_generation: a generation has the binary of its first capability in the list alone,
            which runs on its others: for kernels that gain nothing from those.

    Raises:
        ValueError: the list is not one of compute capabilities.
    """
    numbers = _numbers(architectures)
    newest = max(number for number, _ in numbers)
    if one_a_generation:
        # What has a suffix runs on nothing but itself.
        plain = [number for number, suffix in numbers if not suffix]
        first = {min(n for n in plain if n // 10 == number // 10) for number in plain}
        numbers = [(n, suffix) for n, suffix in numbers if suffix or n in first]
    flags = [f"-gencode=arch=compute_{n}{s},code=sm_{n}{s}" for n, s in numbers]
    return [*flags, f"-gencode=arch=compute_{newest},code=compute_{newest}"]
