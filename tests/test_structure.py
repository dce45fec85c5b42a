"""The layout's rules: who may include what, headers that compile alone, documented variables."""

from __future__ import annotations

import ast
import os
import re
import shutil
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from processes import run_process

ROOT = Path(__file__).resolve().parent.parent
CSRC = ROOT / "csrc"
CODE_FOLDERS = ("csrc", "fusedrnn", "tests", "bench", "examples", "tools")
# Each layer may include itself and the layers to its left; the two devices ignore each other.
LAYERS = (("common",), ("math",), ("cells",), ("plan",), ("cpu", "cuda"), ("bindings",))
TORCH_HEADER = re.compile(r"(torch|ATen|c10|caffe2|pybind11)/|Python\.h$")
INTRINSICS_HEADER = re.compile(r"(\w*mmintrin|x86intrin|arm_neon|arm_sve|arm_acle)\.h$")
LONGEST_FILE = 600

pytestmark = pytest.mark.skipif(
    not CSRC.is_dir(), reason="csrc is not here: an installed package is being tested"
)


def cpp_files(*suffixes: str) -> list[Path]:
    return sorted(path for path in CSRC.rglob("*") if path.suffix in suffixes)


def includes(source: str) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^">]+)[">]', source, flags=re.MULTILINE)


def level(layer: str) -> int:
    return next(idx for idx, group in enumerate(LAYERS) if layer in group)


def forbidden_includes(path: str, source: str) -> Iterator[str]:
    """The includes that a file at `path`, relative to csrc, must not have."""
    layer = path.split("/")[0]
    known = [name for group in LAYERS for name in group]
    for header in includes(source):
        other = header.split("/")[0]
        if other in known and "/" in header:
            sibling = other != layer and level(other) == level(layer)
            if level(other) > level(layer) or sibling:
                yield f"{path}: {layer} must not include {header}"
        if TORCH_HEADER.match(header) and layer != "bindings":
            yield f"{path}: only bindings includes {header}"
        if INTRINSICS_HEADER.match(header) and not path.startswith("cpu/isa/"):
            yield f"{path}: only cpu/isa includes {header}"


def test_each_layer_includes_only_layers_to_its_left() -> None:
    files = cpp_files(".h", ".cpp", ".cu", ".cuh")
    assert files
    layers = {path.relative_to(CSRC).parts[0] for path in files}
    assert layers <= {name for group in LAYERS for name in group}
    found = [
        line
        for path in files
        for line in forbidden_includes(
            path.relative_to(CSRC).as_posix(), path.read_text(encoding="utf-8")
        )
    ]
    assert not found, "\n".join(found)


STARTS_A_PROCESS = re.compile(
    r"(subprocess\.(run|call|check_call|check_output|Popen)|os\.(fork|system|popen|posix_spawn\w*)|"
    r"(mp|multiprocessing|context)\.(Process|Pool)|mp\.spawn|DataLoader)$"
)
# How a call bounds itself: a limit of its own, or a caller that waits no longer than one.
BOUNDED = {"DataLoader": "timeout=", "mp.spawn": "join=False"}


def unbounded_processes(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and STARTS_A_PROCESS.match(ast.unparse(node.func)):
            bound = BOUNDED.get(ast.unparse(node.func))
            if bound is None or bound not in ast.unparse(node):
                yield f"{node.lineno}: {ast.unparse(node.func)}"


def test_tests_start_processes_only_with_a_bound_in_time() -> None:
    """By tests/processes.py, so that one that hangs is ended, and says which test it was."""
    files = [path for path in (ROOT / "tests").glob("*.py") if path.name != "processes.py"]
    found = [
        f"{path.name}:{line}"
        for path in files
        for line in unbounded_processes(path.read_text(encoding="utf-8"))
    ]
    assert not found, found
    assert len(list(unbounded_processes("os.fork()\nDataLoader(x, num_workers=2)"))) == 2


# Where a cell may be named: its header and the registry; the public classes and functions, and what
# lists or converts them.
NAMES_CELLS = (
    *("csrc/cells/", "fusedrnn/modules/", "fusedrnn/compat.py", "fusedrnn/functional.py"),
    *("fusedrnn/__init__.py", "fusedrnn/_results.py", "fusedrnn/_typing.py"),
    *("fusedrnn/reference.py", "fusedrnn/convert.py", "fusedrnn/patching.py"),
    "fusedrnn/quantization.py",
)


def cell_names() -> set[str]:
    """Of every cell, its struct and its name, in lower case."""
    found = set()
    for path in (CSRC / "cells").glob("*.h"):
        source = path.read_text(encoding="utf-8")
        found.update(name.lower() for name in re.findall(r"^FUSEDRNN_CELL\((\w+)\)", source, re.M))
        found.update(re.findall(r'kName = "(\w+)"', source))
    return found


def code_without_comments(path: Path) -> str:
    """Of C++, without comments; of Python, its names and strings without docstrings."""
    source = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return re.sub(r"//.*", "", source)
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node):
            node.body[0] = ast.Pass()
    return ast.unparse(tree)


def test_a_cell_is_named_where_it_is_defined_and_made_public_and_nowhere_else() -> None:
    names = cell_names()
    assert {"lstm", "gru", "rnntanh", "rnn_tanh"} <= names
    pattern = re.compile("|".join(sorted(names)), re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in code_files()
        if (where := path.relative_to(ROOT).as_posix()).startswith(("csrc/", "fusedrnn/"))
        and not where.startswith(NAMES_CELLS)
        for line in code_without_comments(path).splitlines()
        if pattern.search(line)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "line", "allowed"),
    [
        ("math/pack.h", '#include "common/types.h"', True),
        ("math/pack.h", '#include "cells/lstm.h"', False),
        ("plan/cpu_plan.cpp", '#include "cpu/cpu_library.h"', False),
        ("cpu/cpu_layer.cpp", '#include "cuda/cuda_library.h"', False),
        ("cpu/cpu_layer.cpp", "#include <torch/library.h>", False),
        ("cpu/cpu_layer.cpp", "  #  include <ATen/ATen.h>", False),
        ("bindings/cpu.cpp", "#include <ATen/ATen.h>", True),
        ("cpu/instruction_sets.cpp", "#include <immintrin.h>", False),
        ("cpu/isa/table.cpp", "#include <immintrin.h>", True),
        ("cpu/instruction_sets.cpp", "#include <math.h>", True),
    ],
)
def test_the_layering_rule_itself(path: str, line: str, allowed: bool) -> None:
    assert (not list(forbidden_includes(path, f"#pragma once\n{line}\n"))) == allowed


def test_every_header_compiles_alone() -> None:
    compiler = os.environ.get("CXX") or next(
        filter(None, map(shutil.which, ("g++", "clang++"))), ""
    )
    if not compiler:
        pytest.skip("no C++ compiler: neither CXX nor g++ nor clang++")
    headers = cpp_files(".h")
    assert headers

    def errors(header: Path) -> str:
        paths = [CSRC]
        if header.is_relative_to(CSRC / "bindings"):
            paths += torch_include_paths()
        command = [*compiler.split(), "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"]
        command += [f"-I{CSRC}", *(f"-isystem{path}" for path in paths[1:])]
        # Read through -include: a header as the main file warns of its #pragma once.
        command += ["-include", str(header), "-x", "c++", os.devnull]
        result = run_process(command)
        return "" if result.returncode == 0 else f"{header.relative_to(ROOT)}:\n{result.stderr}"

    with ThreadPoolExecutor(max_workers=2) as pool:
        found = [error for error in pool.map(errors, headers) if error]
    assert not found, "\n".join(found)


def torch_include_paths() -> list[str]:
    from torch.utils.cpp_extension import include_paths

    return [*include_paths(), sysconfig.get_path("include")]


def test_every_header_is_guarded() -> None:
    unguarded = [
        path
        for path in cpp_files(".h", ".cuh")
        if "#pragma once" not in path.read_text(encoding="utf-8")
    ]
    assert not unguarded


TYPE = re.compile(
    r"^\s*(?:struct|class|enum class) (\w+)(?: final)?(?: *:[^;{]*)? *\{", re.MULTILINE
)


def doubled(where: dict[str, list[str]]) -> list[str]:
    """Names that are in two folders, unless both devices have one of the same role."""
    return [
        f"{name}: {', '.join(folders)}"
        for name, folders in where.items()
        if len(folders) > 1 and sorted(folders) != ["cpu", "cuda"]
    ]


def test_no_two_files_share_a_name_nor_define_a_type_of_one_name() -> None:
    names: dict[str, list[str]] = {}
    types: dict[str, list[str]] = {}
    for path in cpp_files(".h", ".cpp", ".cu", ".cuh"):
        folder = path.relative_to(CSRC).parts[0]
        names.setdefault(path.name, []).append(folder)
        for name in set(TYPE.findall(path.read_text(encoding="utf-8"))):
            types.setdefault(name, []).append(folder)
    assert "CpuLayer" in types and "cpu_layer.h" in names
    assert [name for name, folders in names.items() if len(folders) > 1] == []
    assert not doubled(types)
    assert doubled({"Product": ["cpu", "cpu"], "Rerun": ["cpu", "cuda"]}) == ["Product: cpu, cpu"]


def test_the_glossary_has_each_word_once() -> None:
    glossary = (CSRC / "README.md").read_text(encoding="utf-8").split("## Words")[1]
    rows = re.findall(r"^\| (\*.*?) \|", glossary.split("## ")[0], flags=re.MULTILINE)
    words = [word for row in rows for word in re.findall(r"\*([^*]+)\*", row)]
    assert {"step", "row", "place", "product"} <= set(words)
    assert sorted(set(words)) == sorted(words)


def code_files() -> list[Path]:
    """Every source file of the project, native and Python."""
    found = [ROOT / "setup.py"]
    for folder in CODE_FOLDERS:
        for suffix in ("py", "h", "cpp", "cu", "cuh"):
            found += (ROOT / folder).rglob(f"*.{suffix}")
    return sorted(found)


def environment_variables(sources: list[str]) -> set[str]:
    """Names in quotes that are no preprocessor macro: what getenv and os.environ are given."""
    quoted, macros = set(), set()
    for source in sources:
        quoted.update(re.findall(r"""["'](FUSEDRNN_[A-Z0-9_]+)["']""", source))
        macros.update(
            name
            for line in re.findall(
                r"^\s*#\s*(?:if|ifdef|ifndef|elif|define)\b.*", source, re.MULTILINE
            )
            for name in re.findall(r"FUSEDRNN_[A-Z0-9_]+", line)
        )
    return quoted - macros


def test_environment_variables_are_told_from_macros() -> None:
    sources = ['#ifdef FUSEDRNN_MACRO\ngetenv("FUSEDRNN_A")', 'f("FUSEDRNN_MACRO", "FUSEDRNN_B")']
    assert environment_variables(sources) == {"FUSEDRNN_A", "FUSEDRNN_B"}


def test_the_documentation_lists_exactly_the_environment_variables_in_use() -> None:
    this_file = Path(__file__).resolve()
    used = environment_variables(
        [p.read_text(encoding="utf-8") for p in code_files() if p != this_file]
    )
    page = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(FUSEDRNN_[A-Z0-9_]+)` \|", page, flags=re.MULTILINE))
    assert listed == used


def unfounded_figures(page: str) -> Iterator[str]:
    """Lines that state a measured speed in a section that names no file under bench/results."""
    for section in re.split(r"^## ", page, flags=re.MULTILINE):
        files = re.findall(r"bench/results/[\w./-]*\w", section)
        yield from (f"no such file: {name}" for name in files if not (ROOT / name).is_file())
        if not files:
            yield from re.findall(
                r"^(?!.*\bmodelled\b).*\d\s*(?:×|ms\b|µs\b|GFLOP|times (?:as fast|faster)).*$",
                section,
                re.MULTILINE,
            )


def test_every_figure_of_the_documentation_has_its_measurement() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    assert len(pages) > 20
    for page in pages:
        unfounded = list(unfounded_figures(page.read_text(encoding="utf-8")))
        assert not unfounded, f"{page.relative_to(ROOT)}: {unfounded}"


def test_a_figure_without_a_measurement_is_found() -> None:
    assert list(unfounded_figures("## Speed\nLSTM is 1.3 times as fast.\n"))
    assert list(unfounded_figures("## Speed\n12 ms, see bench/results/missing.jsonl.\n"))
    assert not list(unfounded_figures("## Speed\nNo figure yet.\n"))
    assert not list(unfounded_figures("## Plan\nschedule  persistent, modelled 6.2 ms\n"))


def test_long_files_say_why() -> None:
    silent = []
    for path in code_files():
        lines = path.read_text(encoding="utf-8").splitlines()
        if len(lines) > LONGEST_FILE and "long because" not in " ".join(lines[:20]).lower():
            silent.append(f"{path.relative_to(ROOT)}: {len(lines)} lines")
    assert not silent, "\n".join(silent)


def test_a_machine_is_asked_for_all_that_kernels_are_compiled_with() -> None:
    """Each flag of setup.py, by its name in cpu/instruction_sets.cpp, for both compilers."""
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    [avx2] = re.findall(r"^AVX2 = .* else \[(.*)\]$", setup, flags=re.MULTILINE)
    [avx512] = re.findall(r"^AVX512 = .* for part in \((.*)\)\]$", setup, flags=re.MULTILINE)
    needed = re.findall(r'"-m(\w+)"', avx2) + [
        f"avx512{part}" for part in re.findall(r"\w+", avx512)
    ]
    assert len(needed) == 7
    source = (ROOT / "csrc/cpu/instruction_sets.cpp").read_text(encoding="utf-8").lower()
    msvc, others = re.findall(r"^bool machine_has\(isa isa\) \{\n(.*?)^\}", source, re.M | re.S)
    for name in needed:
        assert name in others, name
    # Beside MSVC's numbers of bits, their names.
    for name in ("avx2", "fma", "f16c", "avx512f", "dq", "bw", "vl"):
        assert name in msvc, name
