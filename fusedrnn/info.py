"""What is installed, built and found: ``python -m fusedrnn.info``, for bug reports."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

import fusedrnn
from fusedrnn import _library
from fusedrnn._machine import describe_caches

__all__ = ["collect"]

_OTHER_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NVIDIA_TF32_OVERRIDE")


def collect() -> dict[str, Any]:
    """Describes this installation as a flat dictionary of JSON values.

    Returns:
        Versions (``fusedrnn, torch, python, os``); the processor, ``cpu``, and how many ``cores``
        this process may use; the compiled ``extension``'s path, or why
        there is none; the ``cpu_caches`` that schedules are planned for; the
        instruction sets ``cpu_isas_built``, ``cpu_isas_supported`` and the
        ``cpu_isa`` of the next call (or the error that the call would raise); ``cuda_built``,
        the ``cuda_architectures`` it was built for, ``cuda_found``, and the ``cuda_self_tests``
        that kernels went through in this process; ``threads``, the
        ``openmp_runtimes`` of this process (more than one means two thread pools), and the
        ``environment`` variables in force.
    """
    facts: dict[str, Any] = {
        "fusedrnn": fusedrnn.__version__,
        "package": str(Path(fusedrnn.__file__).parent),
        "torch": torch.__version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "os": platform.platform(),
        "cpu": _cpu_name(),
        "cores": _available_cores(),
        "extension": f"missing, the PyTorch fallback runs: {_library.reason}",
        "cpu_caches": None,
        "cpu_isas_built": [],
        "cpu_isas_supported": [],
        "cpu_isa": None,
    }
    if _library.available:
        facts |= _extension_facts()
    built = _library.has_cuda_kernels()
    return facts | {
        "cuda_built": built,
        "cuda_architectures": torch.ops.fusedrnn.cuda_architectures() if built else None,
        "cuda_found": _cuda_found(),
        "cuda_self_tests": _cuda_self_tests() if built else [],
        "threads": torch.get_num_threads(),
        "openmp_runtimes": _openmp_runtimes(),
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith("FUSEDRNN_") or name in _OTHER_VARIABLES
        },
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _available_cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _extension_facts() -> dict[str, Any]:
    caches = None
    try:
        isa = torch.ops.fusedrnn.cpu_isa()
        caches = describe_caches(torch.ops.fusedrnn.describe_cpu()[2:])
    except RuntimeError as error:  # a variable asks for what is not there
        isa = f"error: {str(error).splitlines()[0]}"
    return {
        "extension": str(_library.path),
        "cpu_caches": caches,
        "cpu_isas_built": list(torch.ops.fusedrnn.built_cpu_isas()),
        "cpu_isas_supported": list(torch.ops.fusedrnn.supported_cpu_isas()),
        "cpu_isa": isa,
    }


def _cuda_found() -> str:
    devices = [torch.cuda.get_device_name(idx) for idx in range(torch.cuda.device_count())]
    toolkit = os.environ.get("CUDA_HOME") or shutil.which("nvcc")
    return (
        f"torch {torch.version.cuda or 'without CUDA'}, toolkit {toolkit or 'none'}, "
        f"devices {', '.join(devices) or 'none'}"
    )


def _cuda_self_tests() -> list[str]:
    """A line a family of kernels, of every device, that was used in this process."""
    count = torch.cuda.device_count()
    lines = {idx: torch.ops.fusedrnn.cuda_self_tests(idx) for idx in range(count)}
    return [f"cuda:{idx} {line}" for idx, ones in lines.items() for line in ones]


def _openmp_runtimes() -> list[str]:
    """OpenMP libraries loaded into this process; empty where /proc does not tell."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[-1] for line in maps.splitlines() if "/" in line}
    prefixes = ("libgomp", "libiomp", "libomp")
    return sorted(path for path in paths if Path(path).name.startswith(prefixes))


# The parts of the table: facts, and what their rows are called.
_TABLE = {
    "versions": {name: name for name in ("fusedrnn", "torch", "python", "os", "package")},
    "CPU": {
        "extension": "compiled part",
        "cpu": "processor",
        "cores": "cores for this process",
        "cpu_caches": "caches",
        "threads": "threads of torch",
        "openmp_runtimes": "OpenMP libraries",
        "cpu_isas_built": "instruction sets, built",
        "cpu_isas_supported": "instruction sets, found",
        "cpu_isa": "instruction set, used",
    },
    "CUDA": {
        "cuda_built": "kernels built",
        "cuda_architectures": "built for",
        "cuda_found": "found",
        "cuda_self_tests": "self-tests, so far",
    },
}


def table(facts: dict[str, Any]) -> str:
    """What `collect` found, as an aligned table."""
    parts = {
        title: {label: _format(facts[name]) for name, label in labels.items()}
        for title, labels in _TABLE.items()
    }
    parts["environment variables"] = facts["environment"] or {"none": ""}
    width = max(len(label) for rows in parts.values() for label in rows)
    return "\n\n".join(
        "\n".join([title, *(f"  {label:<{width}}  {row}".rstrip() for label, row in rows.items())])
        for title, rows in parts.items()
    )


def _format(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def main() -> None:
    """Prints what `collect` found."""
    parser = argparse.ArgumentParser(
        prog="python -m fusedrnn.info", description="What is installed, built and found."
    )
    parser.add_argument("--json", action="store_true", help="as one JSON object, for programs")
    as_json = parser.parse_args().json
    facts = collect()
    print(json.dumps(facts, indent=2) if as_json else table(facts))


if __name__ == "__main__":
    main()
