"""tools/gpu_day where there is no GPU: whatever fails or hangs there, the rest still reports."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_process

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tools" / "gpu_day"

if not FOLDER.is_dir():
    pytest.skip("the sources are not here: an installed package is tested", allow_module_level=True)
sys.path.insert(0, str(FOLDER))
import compare  # noqa: E402
import run as gpu_day  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the scripts are for Unix")


def part(name: str, code: str, seconds: int = 60, **options: Any) -> gpu_day.Part:
    return gpu_day.Part(name, seconds, "", (sys.executable, "-c", code), **options)


def lines_of(out: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


def test_whatever_a_part_does_the_rest_reports(tmp_path: Path) -> None:
    child = "import subprocess, sys; print('begun', flush=True); "
    child += "subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    lost = gpu_day.run_all(
        [
            part("figures", """print('{"fact": "gaps", "us": 1.5}'); print("{not a figure")"""),
            part("fails", "import sys; print('no device'); sys.exit(3)"),
            part("beside", "import time; time.sleep(1); print('later')", beside=True),
            part("hangs", child, seconds=10),
            part("crashes", "import os; os.abort()"),
            gpu_day.Part("absent", 60, "", ("no-such-program",)),
            part("needless", "raise SystemExit(1)", only_without="pass"),
            part("needed", "pass", only_without="raise SystemExit(1)"),
        ],
        tmp_path,
        seconds=600,
        tail=2,
    )
    found = {line["part"]: line for line in lines_of(tmp_path, "parts.jsonl")}
    assert {name: line["status"] for name, line in found.items()} == {
        "figures": "passed",
        "fails": "failed",
        "beside": "passed",
        "hangs": "stopped",
        "crashes": "failed",
        "absent": "missing",
        "needless": "needless",
        "needed": "passed",
    }
    assert found["fails"]["rc"] == 3 and found["crashes"]["rc"] == -6
    assert lines_of(tmp_path, "results.jsonl") == [{"part": "figures", "fact": "gaps", "us": 1.5}]
    log = (tmp_path / "log.txt").read_text()
    for text in ("== fails\nno device", "== hangs\nbegun", "== beside\nlater", "no-such-program"):
        assert text in log
    assert {re.sub(r"\d+ s", "N s", line) for line in lost} == {
        "failed: fails (after N s), crashes (after N s)",
        "lost to a limit: hangs (after N s)",
        "missing: absent (after N s)",
    }


def test_what_there_is_no_time_for_is_named(tmp_path: Path) -> None:
    parts = [part("first", "import time; time.sleep(600)", 600), part("second", "pass")]
    lost = gpu_day.run_all(parts, tmp_path, seconds=6, tail=2)
    assert [re.sub(r"\d+ s", "N s", line) for line in lost] == [
        "lost to a limit: first (after N s)",
        "not started, no time was left: second (after N s)",
    ]
    assert [line["status"] for line in lines_of(tmp_path, "parts.jsonl")] == ["stopped", "lost"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_rehearsal_without_a_gpu_reports_every_part(tmp_path: Path) -> None:
    names = ["machine", "import", "facts", "native", "times", "profile", "memcheck", "test_cuda"]
    command = [sys.executable, str(FOLDER / "run.py"), *names, "--out", str(tmp_path)]
    result = run_process(command)
    assert result.returncode == 1, result.stdout
    found = {line["part"]: line["status"] for line in lines_of(tmp_path, "parts.jsonl")}
    assert set(found) == set(names)
    assert found["import"] == "passed"
    for name in ("times", "test_cuda"):
        assert found[name] == "failed", name
    for name in ("facts", "native", "profile", "memcheck"):
        assert found[name] in ("missing", "failed"), name
    assert re.search(r"^failed: .*times \(after", result.stdout, flags=re.MULTILINE)


def test_the_parts_fit_in_one_call_of_ten_minutes() -> None:
    limits = {p.name: p.seconds for p in gpu_day.parts(Path()) if not p.beside}
    del limits["build"], limits["test_rest"]  # where needed; and whatever is left
    assert sum(limits.values()) <= 500
    order = [each.name for each in gpu_day.parts(Path())]
    assert order.index("chunks") < order.index("facts") < order.index("times")


def test_the_parts_name_tests_and_kernels_that_exist() -> None:
    native = (ROOT / "tests" / "native" / "test_cuda_kernels.cpp").read_text(encoding="utf-8")
    tests = [line for line in native.splitlines() if line.startswith("TEST(")]
    assert sum(gpu_day.SANITIZED in line for line in tests) == 1
    schedules = (ROOT / "csrc" / "cuda" / "schedules").glob("*.cuh")
    kernels = "".join(path.read_text(encoding="utf-8") for path in schedules)
    for word in (word for each in gpu_day.parts(Path()) for word in each.command):
        if word.startswith(("tests/", "tools/")):
            assert (ROOT / word).exists(), word
        if word.startswith("regex:"):
            assert re.search(rf"struct \w*{word.removeprefix('regex:')} ", kernels), word


@pytest.mark.usefixtures("compiled_part")
def test_the_comparison_forces_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FUSEDRNN_SCHEDULE", "FUSEDRNN_CUDA_GRAPH"):
        monkeypatch.setenv(name, "")  # put back afterwards
    sizes = ("lstm", torch.float32, 5, 3, 8, 8, 0, 1, True)
    compare.force({"FUSEDRNN_SCHEDULE": "per_step"})
    passes = torch.ops.fusedrnn.explain_layer(*sizes, None)
    assert [schedule for _, schedule, *_ in passes] == ["per_step"] * 2
    compare.force({"FUSEDRNN_SCHEDULE": "single_block"})
    with pytest.raises(RuntimeError, match="single_block"):
        torch.ops.fusedrnn.explain_layer(*sizes, None)
    compare.force({})
    assert "FUSEDRNN_SCHEDULE" not in os.environ
