"""tools/gpu_check.py where there is no GPU: what it says, and how it ends what it started."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path

import pytest
import torch
from processes import run_process

ROOT = Path(__file__).resolve().parent.parent

if not (ROOT / "tools").is_dir():
    pytest.skip("the sources are not here: an installed package is tested", allow_module_level=True)
sys.path.insert(0, str(ROOT / "tools"))
import gpu_check  # noqa: E402


def run(*code: str, seconds: float = 60) -> tuple[bool, str]:
    """What Log.run makes of a Python program."""
    file = io.StringIO()
    deadline = time.monotonic() + seconds
    passed = gpu_check.Log(file).run([sys.executable, "-c", *code], deadline, "part: ")
    return passed, file.getvalue()


def test_status_and_labelled_output_of_a_command() -> None:
    assert run("print(1); print(2)")[0]
    passed, text = run("import sys; print('no'); sys.exit(3)")
    assert not passed
    assert text.splitlines()[1:] == ["part: no", f"part: status 3: {sys.executable}"]


def test_a_missing_program_is_named() -> None:
    file = io.StringIO()
    assert not gpu_check.Log(file).run(["no-such-program"], time.monotonic() + 1)
    assert file.getvalue().splitlines()[-1] == "missing: no-such-program"


@pytest.mark.skipif(sys.platform == "win32", reason="the script is one for Unix")
def test_at_its_limit_a_command_ends_with_what_it_started() -> None:
    start = time.monotonic()
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    passed, text = run(code, "import time; time.sleep(60)", seconds=1)
    assert not passed and "stopped at its limit" in text
    assert time.monotonic() - start < 30


def test_every_part_has_a_limit_and_they_are_nine_minutes_together() -> None:
    assert set(gpu_check.LIMITS) == set(gpu_check.PARTS)
    assert sum(gpu_check.LIMITS.values()) <= 9 * 60


def test_the_sanitizers_run_native_tests_that_exist() -> None:
    source = (ROOT / "tests" / "native" / "test_cuda_kernels.cpp").read_text(encoding="utf-8")
    for name in gpu_check.SANITIZED:
        assert sum(name in line for line in source.splitlines() if line.startswith("TEST(")) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    command = [sys.executable, str(ROOT / "tools" / "gpu_check.py")]
    result = run_process(command)
    assert result.returncode == 1
    assert result.stdout.splitlines() == [
        "gpu-check: torch sees no CUDA device; run it on a machine with a GPU"
    ]
    assert result.stderr == ""
