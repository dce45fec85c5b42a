"""Everything that a machine with a GPU should be asked, most wanted first; it uses no network.

    make gpu-day                             # where there is nvcc: packs build/gpu-day/kit
    cd kit && python3 tools/gpu_day/run.py   # there, with the interpreter that has torch
    python3 tools/gpu_day/run.py times test_cuda --seconds 200    # some of the parts

Each part runs under a limit. The folder `--out` (build/gpu-day/out) then has `parts.jsonl`, a line
a part as it ends; `results.jsonl`, every figure that a part printed as JSON; `log.txt`, all that
they printed; and what a part wrote there itself. The last lines name what failed and what was lost
to a limit; the status is 1 if there is such a thing.

Parts
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

KIT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable or "python3"
PYTEST = (PYTHON, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider", "-n", "8")
NATIVE = "bin/test_cuda_kernels"
# The native test whose kernels the sanitizers follow: all of them, forward and backward, in the
# fewest runs of a layer.
SANITIZED = "same_bits_in_every_order"
SANITIZER = ("compute-sanitizer", "--error-exitcode", "9", "--tool")
HAS_KERNELS = "import fusedrnn._library as l; assert l.has_cuda_kernels(), l.reason"
# Forced where a part must not pass because it found no GPU, or let a kernel be replaced.
STRICT = {"FUSEDRNN_REQUIRE_CUDA": "1", "OMP_NUM_THREADS": "2", "FUSEDRNN_CUDA_SELFTEST": "0"}


class Part(NamedTuple):
    name: str
    seconds: int  # its limit
    what: str
    command: tuple[str, ...]
    environment: dict[str, str] = {}
    beside: bool = False  # runs beside the parts that follow
    only_without: str = ""  # a Python program whose success makes the part needless


def parts(out: Path) -> list[Part]:
    """In their order."""
    wheels = map(str, sorted((KIT / "wheels").glob("*.whl")))
    install = (PYTHON, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-cache-dir")
    rest = ("tests", "--ignore=tests/test_cuda.py", "--continue-on-collection-errors", "-k", "cuda")
    machine = "nvidia-smi; env | grep -iE 'tf32|cuda|torch'; python3 --version; ldd --version"
    build = {"FUSEDRNN_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "9.0a"}
    profile = ("--clock-control", "none", "--set", "full", "-k", "regex:PerStep", "-c", "2")
    profile += ("--launch-skip", "50", "-f", "-o", str(out / "profile"))
    return [
        Part("machine", 10, "the GPU, its driver, the environment", ("bash", "-c", machine)),
        Part("import", 40, "the extension, as it was built", (PYTHON, "-m", "fusedrnn.info")),
        Part(
            "build",
            150,
            "only where that extension does not load: built there",
            (PYTHON, "setup.py", "-q", "build_ext", "--inplace", "--build-temp", "build/gpu"),
            build,
            only_without=HAS_KERNELS,
        ),
        Part(
            "wheels",
            20,
            "Python packages of the tests that the machine may lack",
            (*install, "--target", str(out / "site"), *wheels),
        ),
        Part(
            "chunks",
            40,
            "what only a GPU's products do: gradients in 16 bits over several chunks",
            (*PYTEST, "-k", "cuda", "tests/test_chunks.py"),
            STRICT,
        ),
        Part("facts", 30, "what decides the next schedules", ("bin/facts",)),
        Part("latency", 20, "barriers of a grid and of a cluster", ("bin/latency",)),
        Part("native", 45, "every kernel beside plain loops", (NATIVE,)),
        Part(
            "times",
            75,
            "cuDNN beside every forced schedule",
            (PYTHON, "tools/gpu_day/compare.py", "--seconds", "70"),
            {"FUSEDRNN_CUDA_SELFTEST": "0"},
        ),
        Part(
            "profile",
            30,
            "two steps under the profiler",
            ("ncu", *profile, PYTHON, "tools/gpu_day/compare.py", "--seconds", "8"),
        ),
        Part(
            "memcheck",
            60,
            "the native tests under the sanitizer of memory",
            (*SANITIZER, "memcheck", NATIVE, SANITIZED),
            beside=True,
        ),
        Part(
            "racecheck",
            60,
            "and that of shared memory",
            (*SANITIZER, "racecheck", NATIVE, SANITIZED),
            beside=True,
        ),
        Part(
            "test_cuda",
            140,
            "the Python tests of what only CUDA has",
            (*PYTEST, "tests/test_cuda.py"),
            STRICT,
        ),
        Part("test_rest", 300, "every other Python test on CUDA", (*PYTEST, *rest), STRICT),
    ]


class Report:
    """What the parts leave in the folder, and on the screen."""

    def __init__(self, out: Path, tail: int) -> None:
        self._out = out
        self._tail = tail
        self._lock = threading.Lock()
        self.lines: list[dict[str, object]] = []

    def add(self, line: dict[str, object], log: Path | None = None) -> None:
        text = log.read_text(errors="replace") if log and log.exists() else ""
        with self._lock:
            self.lines.append(line)
            print(json.dumps(line))
            figures = [found for each in text.splitlines() if (found := _figure(each)) is not None]
            shown = [each for each in text.splitlines() if _figure(each) is None]
            print("".join(f"    {each}\n" for each in shown[-self._tail :]), end="", flush=True)
            with (self._out / "log.txt").open("a") as file:
                file.write(f"== {line['part']}\n{text}\n")
            with (self._out / "results.jsonl").open("a") as file:
                file.writelines(json.dumps({"part": line["part"], **f}) + "\n" for f in figures)
            with (self._out / "parts.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")

    def summary(self) -> list[str]:
        """What did not pass, by how it ended; nothing where everything did."""
        found: dict[str, list[str]] = {}
        for line in self.lines:
            if line["status"] not in ("passed", "needless"):
                text = f"{line['part']} (after {line['seconds']:.0f} s)"
                found.setdefault(str(line["status"]), []).append(text)
        meaning = {"stopped": "lost to a limit", "lost": "not started, no time was left"}
        return [f"{meaning.get(name, name)}: {', '.join(ones)}" for name, ones in found.items()]


def _figure(line: str) -> dict[str, object] | None:
    """A line of JSON as an object; None where it is none."""
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def run_part(part: Part, out: Path, report: Report, begun: float, end: float) -> None:
    """Runs the part until it ends or its time is up, and reports it."""
    start = time.monotonic()
    limit = min(part.seconds, end - start)
    log = out / f".{part.name}.log"
    rc: int | None = None
    status = "lost"
    # The start of an interpreter with torch takes some seconds.
    if limit >= min(5, part.seconds):
        environment = os.environ | {"PYTHONUNBUFFERED": "1"} | part.environment
        paths = [str(KIT), str(out / "site"), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        try:
            rc, status = _run(part.command, environment, log, limit)
        except OSError as error:  # such as a program that is not there
            log.write_text(f"{error}\n")
            status = "missing" if isinstance(error, FileNotFoundError) else "failed"
    line = {"part": part.name, "status": status, "rc": rc, "limit": part.seconds}
    line |= {"seconds": round(time.monotonic() - start, 1), "at": round(start - begun, 1)}
    report.add(line, log)
    log.unlink(missing_ok=True)


def _run(
    command: tuple[str, ...], environment: dict[str, str], log: Path, limit: float
) -> tuple[int | None, str]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=KIT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            rc = process.wait(limit)
            return rc, "passed" if rc == 0 else "failed"
        except subprocess.TimeoutExpired:
            return None, "stopped"
        finally:
            # What it started ends with it, whether it ended by itself or not.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def is_needless(part: Part) -> bool:
    if not part.only_without:
        return False
    environment = os.environ | {"PYTHONPATH": str(KIT)}
    command = [PYTHON, "-c", part.only_without]
    return subprocess.run(command, env=environment, cwd=KIT, capture_output=True).returncode == 0


def run_all(chosen: list[Part], out: Path, seconds: float, tail: int) -> list[str]:
    """Runs the parts; returns what `Report.summary` says."""
    out.mkdir(parents=True, exist_ok=True)
    report = Report(out, tail)
    begun = time.monotonic()
    end = begun + seconds
    aside: list[threading.Thread] = []
    for part in chosen:
        if is_needless(part):
            report.add({"part": part.name, "status": "needless", "rc": None, "seconds": 0.0})
            continue
        if part.beside:
            aside.append(threading.Thread(target=run_part, args=(part, out, report, begun, end)))
            aside[-1].start()
        else:
            run_part(part, out, report, begun, end)
    for thread in aside:
        thread.join()
    return report.summary()


def main(make_parts: Callable[[Path], list[Part]] = parts) -> int:
    text = "\n".join(f"    {p.name:<10} {p.seconds:>4} s  {p.what}" for p in make_parts(Path()))
    parser = argparse.ArgumentParser(
        description=f"{__doc__}{text}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="some of them; all by default")
    parser.add_argument("--out", type=Path, default=KIT / "build" / "gpu-day" / "out")
    parser.add_argument("--seconds", type=float, default=560, help="for all of it (560)")
    parser.add_argument("--tail", type=int, default=12, help="lines of a part's output to print")
    options = parser.parse_args()
    out = options.out.resolve()
    known = make_parts(out)
    unknown = set(options.parts) - {part.name for part in known}
    if unknown:
        parser.error(f"expected parts of {', '.join(p.name for p in known)}, got {unknown}")
    chosen = [part for part in known if not options.parts or part.name in options.parts]
    lost = run_all(chosen, out, options.seconds, options.tail)
    print("\n".join(lost) or "everything passed")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
