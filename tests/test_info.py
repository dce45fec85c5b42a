"""`python -m fusedrnn.info` and `fusedrnn.info.collect`."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path

import pytest
import torch
from processes import run_process

import fusedrnn
from fusedrnn import _library, info


def test_collect_describes_this_installation() -> None:
    facts = info.collect()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["fusedrnn"] == fusedrnn.__version__
    assert facts["torch"] == torch.__version__
    assert facts["python"].startswith(platform.python_version())
    assert facts["threads"] == torch.get_num_threads()
    assert Path(facts["package"], "info.py").exists()


def test_collect_names_the_environment_variables_in_force(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FUSEDRNN_CPU_ISA", "generic")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("UNRELATED", "1")
    variables = info.collect()["environment"]
    assert variables["FUSEDRNN_CPU_ISA"] == "generic"
    assert variables["OMP_NUM_THREADS"] == "3"
    assert "UNRELATED" not in variables


@pytest.mark.skipif(not _library.available, reason="needs the compiled extension")
def test_collect_names_the_extension_and_the_instruction_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FUSEDRNN_CPU_ISA", raising=False)
    facts = info.collect()
    assert Path(facts["extension"]).exists()
    assert "generic" in facts["cpu_isas_supported"]
    assert set(facts["cpu_isas_supported"]) <= set(facts["cpu_isas_built"])
    assert facts["cpu_isa"] in facts["cpu_isas_supported"]
    assert facts["cpu_caches"] in str(fusedrnn.Machine(cores=1))
    monkeypatch.setenv("FUSEDRNN_CPU_ISA", "generic")
    assert info.collect()["cpu_isa"] == "generic"
    monkeypatch.setenv("FUSEDRNN_CPU_ISA", "abacus")
    assert info.collect()["cpu_isa"].startswith("error: ")


def test_one_openmp_runtime_is_loaded() -> None:
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs Linux's /proc")
    assert len(info.collect()["openmp_runtimes"]) == 1


def test_collect_says_why_the_extension_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_library, "available", False)
    monkeypatch.setattr(_library, "reason", "no such file")
    facts = info.collect()
    assert facts["extension"] == "missing, the PyTorch fallback runs: no such file"
    assert facts["cpu_isas_built"] == facts["cpu_isas_supported"] == []
    assert facts["cpu_isa"] is None
    assert facts["cuda_built"] is False
    assert facts["cuda_architectures"] is None


def _run_module(folder: Path, *arguments: str) -> str:
    root = str(Path(fusedrnn.__file__).parent.parent)
    code = f"import sys, runpy; sys.path.append({root!r}); runpy.run_module('fusedrnn.info', "
    code += "run_name='__main__')"
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    return run_process(command, cwd=folder, check=True).stdout


def test_module_prints_every_fact_from_another_directory(tmp_path: Path) -> None:
    facts = info.collect()
    shown = {name for rows in info._TABLE.values() for name in rows}
    assert shown | {"environment"} == facts.keys()
    lines = _run_module(tmp_path).splitlines()
    rows = [line for line in lines if line.startswith("  ")]
    [torch_row] = [row for row in rows if row.split()[0] == "torch"]
    assert torch_row.split() == ["torch", torch.__version__]
    begins = {row.index(row.split("  ")[-1].strip()) for row in rows if row.strip() != "none"}
    assert len(begins) == 1, lines  # one column of values


def test_module_prints_json_for_programs(tmp_path: Path) -> None:
    facts = json.loads(_run_module(tmp_path, "--json"))
    assert facts.keys() == info.collect().keys()
    assert facts["torch"] == torch.__version__


def test_the_table_shows_variables_and_what_is_missing() -> None:
    facts = info.collect() | {"environment": {"FUSEDRNN_CPU_ISA": "avx2"}, "cuda_built": False}
    text = info.table(facts | {"cpu_isas_built": []})
    assert "\n  FUSEDRNN_CPU_ISA         avx2" in text
    assert "\n  kernels built            no\n" in text
    assert "\n  instruction sets, built  none\n" in text
