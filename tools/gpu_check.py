"""Checks and times everything on the GPU of this machine. It uses no network.

    python tools/gpu_check.py                  # all parts, in about nine minutes on 16 cores
    python tools/gpu_check.py build bench      # some of them
    python tools/gpu_check.py --out results/x  # not under build/gpu-check

    build   the extension, into this source tree (not kept by `make test`), and the native test of
            the CUDA kernels, both for this GPU alone
    native  that test, and parts of it under compute-sanitizer's memcheck, racecheck and initcheck
    test    every Python test, with FUSEDRNN_REQUIRE_CUDA=1: a test without a GPU fails
    bench   a part of the benchmark against torch.nn, in float32 and float16, and a shape of it
            without CUDA graphs, into bench-without-graphs.jsonl

It runs with the interpreter that has torch (2.11 or newer) and needs make, nvcc, compute-sanitizer
and pytest; pytest-xdist is used where it is installed. The folder it leaves has `log.txt`, the
lines of the benchmark in `bench.jsonl`, and in `parts.jsonl` a line a part: its seconds and its
status. The status is 1 if a part failed or ran past its limit.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

import cuda_toolkit
import torch

ROOT = Path(__file__).resolve().parent.parent
SANITIZERS = ("memcheck", "racecheck", "initcheck")
# Parts of the names of the native tests that run under them: every kernel, forward and backward,
# and every size around the tiles; about 850 of the 4000 runs of a layer.
SANITIZED = ("same_bits_in_every_order", "sizes_around_the_tiles")
# Seconds after which a part is stopped; 9 minutes together.
LIMITS = {"build": 120, "native": 80, "test": 260, "bench": 80}


class Log:
    """What a part prints, on the screen and in the file; from several threads."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lock = threading.Lock()

    def write(self, text: str) -> None:
        with self._lock:
            for stream in (sys.stdout, self._file):
                stream.write(text)
                stream.flush()

    def run(self, command: list[str], deadline: float, label: str = "", **environment: str) -> bool:
        """Whether the command ended with status 0 before the deadline; `label` is put before each
        line of its output. What it started ends with it."""
        self.write(f"$ {' '.join(command)}\n")
        try:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        except FileNotFoundError:
            self.write(f"{label}missing: {command[0]}\n")
            return False
        timer = threading.Timer(
            max(deadline - time.monotonic(), 0), os.killpg, (process.pid, signal.SIGKILL)
        )
        timer.start()
        for line in process.stdout:
            self.write(label + line)
        status = process.wait()
        timer.cancel()
        if status != 0:
            late = time.monotonic() >= deadline
            reason = "stopped at its limit" if late else f"status {status}"
            self.write(f"{label}{reason}: {command[0]}\n")
        return status == 0


def all_at_once(jobs: list[Callable[[], bool]]) -> bool:
    with ThreadPoolExecutor(len(jobs)) as pool:
        return all(list(pool.map(lambda job: job(), jobs)))


def architecture() -> str:
    """Of this GPU, such as "9.0a"."""
    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}{'a' if (major, minor) == (9, 0) else ''}"


def toolkit() -> Path:
    return Path(cuda_toolkit.find_home() or "/usr/local/cuda", "bin")


def build(log: Log, _out: Path, deadline: float) -> bool:
    # The environment of `make test` has another torch: it must build its own again.
    (ROOT / ".venv" / ".built").unlink(missing_ok=True)
    extension = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    extension += ["--build-temp", "build/gpu"]
    native = [
        "make",
        "-s",
        "-C",
        "tests/native",
        f"-j{os.cpu_count() or 1}",
        "test_cuda_kernels_gpu",
    ]
    native += [f"CUDA_ARCH={architecture().replace('.', '')}", f"NVCC={toolkit() / 'nvcc'}"]
    build_for = {"FUSEDRNN_CUDA": "1", "TORCH_CUDA_ARCH_LIST": architecture()}
    return all_at_once(
        [
            lambda: log.run(extension, deadline, "extension: ", **build_for),
            lambda: log.run(native, deadline, "native: "),
        ]
    )


def native(log: Log, _out: Path, deadline: float) -> bool:
    """All at once: one spends its time on the host while another has the GPU."""
    program = f"build/native-gpu-{architecture().replace('.', '')}/test_cuda_kernels"
    sanitizer = shutil.which("compute-sanitizer") or str(toolkit() / "compute-sanitizer")

    def check(tool: str) -> bool:
        command = [sanitizer, "--tool", tool, "--error-exitcode", "9", program, *SANITIZED]
        # initcheck takes memory that was filled for memory that was initialised.
        poison = "0" if tool == "initcheck" else "1"
        return log.run(command, deadline, f"{tool}: ", FUSEDRNN_POISON=poison)

    plain = [lambda: log.run([program], deadline, "plain: ")]
    return all_at_once([*plain, *(lambda tool=tool: check(tool) for tool in SANITIZERS)])


def test(log: Log, _out: Path, deadline: float) -> bool:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--durations=10"]
    if importlib.util.find_spec("xdist"):
        command += ["-n", str(min(8, os.cpu_count() or 1))]
    return log.run(command, deadline, FUSEDRNN_REQUIRE_CUDA="1", OMP_NUM_THREADS="2")


def bench(log: Log, out: Path, deadline: float) -> bool:
    command = [sys.executable, "-m", "bench", "run", "--device", "cuda", "--cells", "LSTM", "GRU"]
    command += ["--dtype", "float32", "float16", "--rounds", "5", "--budget", "0.5"]
    large, small = "16,100,256,256", "64,50,64,64"
    against_torch = ["--shapes", large, small, "--out", str(out / "bench.jsonl")]
    # Where steps are kernels of their own: without graphs.
    alone = ["--shapes", large, "--providers", "fusedrnn"]
    alone += ["--out", str(out / "bench-without-graphs.jsonl")]
    passed = log.run([*command, *against_torch], deadline)
    return log.run([*command, *alone], deadline, FUSEDRNN_CUDA_GRAPH="0") and passed


PARTS: dict[str, Callable[[Log, Path, float], bool]] = {
    "build": build,
    "native": native,
    "test": test,
    "bench": bench,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"expected parts of {', '.join(PARTS)}, got {', '.join(unknown)}")
    if not torch.cuda.is_available():
        print("gpu-check: torch sees no CUDA device; run it on a machine with a GPU")
        return 1
    gpu = torch.cuda.get_device_name()
    now = datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S")
    folder = re.sub(r"[^a-z0-9]+", "-", gpu.lower()) + "-" + now
    out = (options.out or ROOT / "build" / "gpu-check" / folder).resolve()
    out.mkdir(parents=True, exist_ok=True)
    results = []
    with (out / "log.txt").open("a") as file:
        log = Log(file)
        log.write(f"{gpu}, torch {torch.__version__}, CUDA {torch.version.cuda}, {out}\n")
        for name in options.parts or PARTS:
            log.write(f"\n== {name}\n")
            start = time.monotonic()
            passed = PARTS[name](log, out, start + LIMITS[name])
            seconds = round(time.monotonic() - start, 1)
            results.append({"part": name, "seconds": seconds, "passed": passed, "gpu": gpu})
            with (out / "parts.jsonl").open("a") as lines:
                lines.write(json.dumps(results[-1]) + "\n")
        log.write("\n")
        for result in results:
            verdict = "passed" if result["passed"] else "FAILED"
            log.write(f"{result['part']:<6}  {verdict}  {result['seconds']:6.1f} s\n")
    return 0 if all(result["passed"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
