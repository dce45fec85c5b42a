"""A test that hangs is named, with the stacks of all threads, and ended."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from processes import run_process

ROOT = Path(__file__).resolve().parent.parent

pytest.importorskip("pytest_timeout")
pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="calls sleep of the C library"),
    pytest.mark.skipif(
        not (ROOT / "pyproject.toml").is_file(), reason="the sources are not here: no settings"
    ),
]

HANGS = {
    "python": "while True: time.sleep(1)",
    "native": "ctypes.CDLL(None).sleep(100)",
    "native_with_the_lock": "ctypes.PyDLL(None).sleep(100)",
    "a_child": "os.waitpid(subprocess.Popen(['sleep', '100']).pid, 0)",
}


@pytest.mark.parametrize("kind", HANGS)
def test_a_test_that_hangs_is_named_and_ended(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "test_hanging.py"
    file.write_text(
        f"import ctypes, os, subprocess, time\n\ndef test_it_hangs():\n    {HANGS[kind]}\n"
    )
    settings = ["-c", ROOT / "pyproject.toml", "-p", "no:cacheprovider"]
    settings += ["-o", "timeout=1", "-o", "faulthandler_timeout=3"]
    done = run_process([sys.executable, "-m", "pytest", *settings, file], cwd=tmp_path)
    assert done.returncode == 1
    assert "in test_it_hangs" in done.stdout + done.stderr
