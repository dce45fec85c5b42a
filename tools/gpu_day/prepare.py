"""Packs what a machine with a GPU needs to be tested and timed, into build/gpu-day/kit.

    make gpu-day

The folder is this source tree with its extension, built for compute capability 9.0a with the torch
of the running interpreter; `bin`, the native test of the kernels, facts and latency; and `wheels`,
the Python packages of the tests that a machine with torch and pytest may lack. It is at most 60 MB,
and nothing in it needs a network. There, `python3 tools/gpu_day/run.py` does the rest; here it is
run for the parts that need no GPU, to see that the folder is whole. The status is 1 if something
does not build, is too large or does not start.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import cuda_toolkit  # noqa: E402

ARCHITECTURE = "9.0a"
FOLDER = ROOT / "build" / "gpu-day"
KIT = FOLDER / "kit"
PROGRAMS = ("facts", "latency")
# Neither run there nor read by what runs.
LEFT_OUT = ("docs", "bench/results", "examples", "tests_libraries")
LIMIT_BYTES = 60_000_000


def build() -> None:
    """The extension, the native test and the programs, all for one architecture."""
    folders = ["--build-lib", str(FOLDER / "lib")]
    objects = ["--build-temp", str(FOLDER / "objects")]
    command = [sys.executable, "setup.py", "-q", "build_py", *folders]
    environment = {"FUSEDRNN_CUDA": "1", "TORCH_CUDA_ARCH_LIST": ARCHITECTURE}
    _run([*command, "build_ext", *folders, *objects], **environment)
    architecture = ARCHITECTURE.replace(".", "")
    nvcc = str(Path(cuda_toolkit.find_home() or "/usr/local/cuda", "bin", "nvcc"))
    native = ["make", "-s", "-C", "tests/native", "-j2", "test_cuda_kernels_gpu"]
    _run([*native, f"CUDA_ARCH={architecture}", f"NVCC={nvcc}"])
    for name in PROGRAMS:
        source = f"tools/gpu_day/{name}.cu"
        flags = ["-O3", "-std=c++17", f"-arch=sm_{architecture}"]
        _run([nvcc, *flags, "-o", str(FOLDER / name), source])


def pack() -> None:
    shutil.rmtree(KIT, ignore_errors=True)
    tracked = _run(["git", "ls-files", "-z"]).split("\0")
    for name in filter(None, tracked):
        if not name.startswith(LEFT_OUT) and (ROOT / name).is_file():
            (KIT / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, KIT / name)
    shutil.copy2(FOLDER / "lib" / "fusedrnn" / "_C.so", KIT / "fusedrnn")
    (KIT / "bin").mkdir()
    native = ROOT / "build" / f"native-gpu-{ARCHITECTURE.replace('.', '')}" / "test_cuda_kernels"
    for program in (native, *(FOLDER / name for name in PROGRAMS)):
        shutil.copy2(program, KIT / "bin")
        _run(["strip", "--strip-debug", str(KIT / "bin" / program.name)])
    (KIT / "REVISION").write_text(_run(["git", "describe", "--always", "--dirty"]))
    wheels = KIT / "wheels"
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    _run([*download, "-d", str(wheels), "-r", "tools/gpu_day/wheels.txt"])


def sizes() -> dict[str, int]:
    """Bytes of what is in the folder, by its first level; the large ones by name."""
    found: dict[str, int] = {}
    for path in KIT.rglob("*"):
        if path.is_file():
            parts = path.relative_to(KIT).parts
            large = parts[0] in ("bin", "wheels") or path.suffix == ".so"
            key = "/".join(parts) if large else parts[0] if len(parts) > 1 else "(files)"
            found[key] = found.get(key, 0) + path.stat().st_size
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _run(command: list[str], **environment: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, text=True
    )
    if done.returncode != 0:
        sys.exit(f"gpu-day: status {done.returncode}: {' '.join(command)}\n{done.stdout}")
    return done.stdout


def main() -> int:
    start = time.monotonic()
    build()
    pack()
    packed = sizes()
    for name, size in packed.items():
        print(f"{size / 1e6:8.2f} MB  {name}")
    total = sum(packed.values())
    print(f"{total / 1e6:8.2f} MB  in {KIT}, built in {time.monotonic() - start:.0f} s\n")
    if total > LIMIT_BYTES:
        print(f"gpu-day: expected at most {LIMIT_BYTES / 1e6:.0f} MB")
        return 1
    here = [sys.executable, "tools/gpu_day/run.py", "import", "wheels"]
    if subprocess.run([*here, "--out", str(FOLDER / "here")], cwd=KIT).returncode != 0:
        print(f"gpu-day: the folder does not start here, see {FOLDER / 'here' / 'log.txt'}")
        return 1
    print(f"\ngpu-day: copy {KIT} to the machine, and there run: python3 tools/gpu_day/run.py")
    return 0


if __name__ == "__main__":
    sys.exit(main())
