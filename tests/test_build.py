"""The build: what it says when something is missing, and what the packages contain."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import run_process

from fusedrnn import _library

ROOT = Path(__file__).resolve().parent.parent

if not (ROOT / "setup.py").is_file() or not (ROOT / "csrc").is_dir():
    pytest.skip("the sources are not here: an installed package is tested", allow_module_level=True)
setuptools = pytest.importorskip("setuptools")
sys.path.insert(0, str(ROOT / "tools"))
import cuda_toolkit  # noqa: E402
import kernel_resources  # noqa: E402


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the build reads, so that tests leave nothing behind in the sources."""
    copy = tmp_path / "tree"
    for folder in ("csrc", "fusedrnn", "tools"):
        ignore = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def run_setup(
    tree: Path, *command: str, before: str = "pass", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs setup.py with that command, after the Python statements `before`."""
    arguments = ["setup.py", "-q", *command]
    code = f"import runpy, sys; sys.argv = {arguments!r}; {before}; runpy.run_path('setup.py')"
    variables = os.environ | {"PWD": str(tree)} | environment
    return run_process([sys.executable, "-c", code], cwd=tree, env=variables)


HIDE_TORCH = "sys.modules['torch'] = None"


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1]


def test_missing_torch_is_one_sentence_with_the_command(tree: Path) -> None:
    result = run_setup(tree, "build_ext", before=HIDE_TORCH)
    assert last_line(result) == (
        "fusedrnn cannot be built: torch is missing; "
        "run: pip install torch ninja && pip install --no-build-isolation ."
    )


@pytest.mark.skipif(sys.platform == "win32", reason="setuptools looks for MSVC itself")
def test_missing_compiler_is_one_sentence_with_the_command(tree: Path) -> None:
    result = run_setup(tree, "build_ext", CXX="no-such-compiler")
    assert last_line(result) == (
        "fusedrnn cannot be built: the C++ compiler no-such-compiler is missing; "
        "run: apt-get install g++ && CXX=g++ pip install ."
    )


def test_cuda_that_cannot_be_built_is_an_error_when_asked_for(tree: Path) -> None:
    hide = "import torch; torch.version.cuda = None"
    result = run_setup(tree, "build_ext", before=hide, FUSEDRNN_CUDA="1")
    assert "FUSEDRNN_CUDA=1, but this torch is built without CUDA" in last_line(result)
    hide = "import torch; torch.version.cuda = '1.0'"
    result = run_setup(tree, "build_ext", before=hide, FUSEDRNN_CUDA="1", CUDA_HOME=str(tree))
    assert "but torch is built with CUDA 1.0, the toolkit is ?" in last_line(result)


@pytest.mark.parametrize(
    ("architectures", "expected"),
    [
        ("7.5", ["sm_75", "compute_75"]),
        ("8.0;9.0a", ["sm_80", "sm_90a", "compute_90"]),
        ("12.0+PTX 7.5", ["sm_75", "sm_120", "compute_120"]),
    ],
)
def test_code_is_compiled_for_each_architecture_and_later_ones(
    architectures: str, expected: list[str]
) -> None:
    flags = cuda_toolkit.gencode_flags(architectures)
    assert [flag.split(",code=")[1] for flag in flags] == expected


def test_architectures_are_compute_capabilities() -> None:
    with pytest.raises(ValueError, match="expected compute capabilities .* got 'Hopper'"):
        cuda_toolkit.gencode_flags("8.0;Hopper")


CUOBJDUMP = """
arch = sm_75
Resource usage:
 Common:
  GLOBAL:0
 Function _Z1a:
  REG:40 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:404 TEXTURE:0 SURFACE:0 SAMPLER:0
arch = sm_90a
 Function _Z1a:
  REG:64 STACK:16 SHARED:1024 LOCAL:0 CONSTANT[0]:580 TEXTURE:0 SURFACE:0 SAMPLER:0
"""


def test_a_kernel_that_spills_is_found_in_the_resource_table() -> None:
    kernels = kernel_resources.parse(CUOBJDUMP)
    assert [kernel.registers for kernel in kernels] == [40, 64]
    assert [kernel.arch for kernel in kernel_resources.spilled(kernels)] == ["sm_90a"]
    header, row = kernel_resources.render(kernels).splitlines()
    assert row.split() == ["_Z1a", "40", "64", "16", "1024", "0"]
    assert "sm_75 sm_90a" in header


@pytest.mark.skipif(sys.platform == "win32", reason="the script is one for a Unix shell")
def test_toolkit_is_found_behind_a_script_named_nvcc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "toolkit"
    script = tmp_path / "bin" / "nvcc"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\necho '#$ TOP={home}/bin/..' >&2\n")
    script.chmod(0o755)
    (home / "bin").mkdir(parents=True)
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    assert cuda_toolkit.find_home() == str(home)
    monkeypatch.setenv("CUDA_HOME", "/elsewhere")
    assert cuda_toolkit.find_home() == "/elsewhere"


def test_isolated_build_finds_the_torch_it_will_run_with(tree: Path, tmp_path: Path) -> None:
    """As in pip's isolated build: the environment's packages are off the path."""
    isolated = tmp_path / "isolated"
    isolated.mkdir()
    packages = Path(setuptools.__file__).parent.parent
    for name in ("setuptools", "_distutils_hack", "pkg_resources"):
        if (packages / name).is_dir():
            (isolated / name).symlink_to(packages / name)
    hide = (
        f"sys.path[:] = [{str(isolated)!r}] + "
        "[p for p in sys.path if 'site-packages' not in p and 'dist-packages' not in p]"
    )
    result = run_setup(tree, "build_ext", before=hide, CXX="no-such-compiler")
    assert "the C++ compiler no-such-compiler is missing" in last_line(result)


def test_torch_is_no_build_requirement() -> None:
    section = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[build-system]")[1]
    requires = next(line for line in section.splitlines() if line.startswith("requires"))
    assert "setuptools" in requires
    assert "torch" not in requires


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc on this system")
def test_one_openmp_runtime_is_loaded(compiled_part: None) -> None:
    """The extension shares torch's threads; two pools would fight for the cores.

    In a process of its own: other tests may have loaded libraries with runtimes of theirs.
    """
    program = """
import fusedrnn, torch
torch.nn.functional.linear(torch.ones(256, 256), torch.ones(256, 256))
fusedrnn.LSTM(64, 64)(torch.zeros(9, 5, 64))[0].sum().backward()
print(open("/proc/self/maps").read())
"""
    maps = run_process([sys.executable, "-c", program], cwd=ROOT, check=True).stdout
    assert str(_library.path) in maps
    runtimes = {line.split()[-1] for line in maps.splitlines() if "omp" in line.rsplit("/", 1)[-1]}
    assert len(runtimes) <= 1, runtimes


@pytest.mark.skipif(not _library.available, reason="needs the compiled extension")
@pytest.mark.skipif(
    shutil.which("objdump") is None or platform.machine() != "x86_64",
    reason="disassembles the code for x86-64",
)
def test_no_instruction_is_outside_of_its_instruction_set() -> None:
    """Only functions compiled for AVX-512 use its registers, and only those and AVX2's use v...."""
    [built] = (ROOT / "fusedrnn").glob("_C*.so")
    command = ["objdump", "-d", "--no-show-raw-insn", str(built)]
    text = run_process(command, check=True).stdout
    needs_avx512 = re.compile(r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])|%k[0-7]")
    needs_avx = re.compile(r"\tv[a-z]")
    misplaced, function, seen = set(), "", set()
    for line in text.splitlines():
        if line.endswith(">:"):
            function = line
            continue
        allowed = 2 if "6avx512" in function else 1 if "4avx2" in function else 0
        needed = 2 if needs_avx512.search(line) else 1 if needs_avx.search(line) else 0
        seen.add((allowed, needed))
        if needed > allowed:
            misplaced.add(f"{function} {line.strip()}")
    assert not misplaced
    assert {(0, 0), (1, 1), (2, 2)} <= seen
