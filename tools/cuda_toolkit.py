"""Finds the CUDA toolkit and says for which GPUs to compile; used by setup.py and the tools."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

# Turing, Ampere, Ada and Hopper. A binary runs on its own generation from that capability on.
DEFAULT_ARCHITECTURES = "7.5;8.0;8.9;9.0a"


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


def gencode_flags(architectures: str) -> list[str]:
    """nvcc's flags for a list such as "7.5;9.0a": binaries, and PTX of the newest for later GPUs.

    PTX of an architecture with a suffix would run on that one alone, so it has none.

    Raises:
        ValueError: the list is not one of compute capabilities.
    """
    numbers = []
    for name in re.split(r"[;,\s]+", architectures.strip()):
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)(?:\+PTX)?", name)
        if not match:
            raise ValueError(
                f"TORCH_CUDA_ARCH_LIST: expected compute capabilities such as "
                f"{DEFAULT_ARCHITECTURES}, got {name!r}"
            )
        numbers.append((int(match[1] + match[2]), match[3]))
    flags = [f"-gencode=arch=compute_{n}{s},code=sm_{n}{s}" for n, s in sorted(set(numbers))]
    newest = max(number for number, _ in numbers)
    return [*flags, f"-gencode=arch=compute_{newest},code=compute_{newest}"]
