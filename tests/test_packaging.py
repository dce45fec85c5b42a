"""Packages: their metadata for each torch, and what installers say when something is missing."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from processes import run_process

import fusedrnn

ROOT = Path(__file__).resolve().parent.parent

if not (ROOT / "setup.py").is_file() or not (ROOT / "csrc").is_dir():
    pytest.skip("the sources are not here: an installed package is tested", allow_module_level=True)
setuptools = pytest.importorskip("setuptools", minversion="77")
packaging_requirements = pytest.importorskip("packaging.requirements")

MINOR = ".".join(torch.__version__.split(".")[:2])
# What each tool sets in the environment of a build.
TOOLS = {
    "pip": {"PIP_BUILD_TRACKER": "folder"},
    "uv": {"UV": "uv"},
    "build": {"_PYPROJECT_HOOKS_BUILD_BACKEND": "build_backend"},
}
FROM_TOOL = [variable for each in TOOLS.values() for variable in each]
HIDE_TORCH = "sys.modules['torch'] = None"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what packages are made from, which the build may write to."""
    tree = tmp_path_factory.mktemp("sources") / "tree"
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    for name in ("csrc", "fusedrnn", "tools", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for path in ROOT.iterdir():
        if path.suffix in (".py", ".toml", ".md", ".in", ".cff") or path.name == "LICENSE":
            shutil.copy(path, tree)
    return tree


def call_backend(
    tree: Path, call: str, *, tool: str = "pip", before: str = "pass", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Calls a hook of the build backend as that tool does, after the statements `before`."""
    outside = {name: value for name, value in os.environ.items() if name not in FROM_TOOL}
    code = f"import sys; sys.path.insert(0, 'tools'); {before}; import build_backend; {call}"
    return run_process(
        [sys.executable, "-c", code],
        cwd=tree,
        env=outside | {"PWD": str(ROOT), "MAX_JOBS": "1"} | TOOLS.get(tool, {}) | environment,
    )


def metadata_of(folder: Path) -> email.message.Message:
    [path] = folder.glob("*.dist-info/METADATA")
    return email.message_from_string(path.read_text(encoding="utf-8"))


def prepare(tree: Path, tmp_path: Path, **options: str) -> email.message.Message:
    folder = tmp_path / "metadata"
    folder.mkdir()
    call = f"build_backend.prepare_metadata_for_build_wheel({str(folder)!r})"
    result = call_backend(tree, call, **options)
    assert result.returncode == 0, result.stderr
    return metadata_of(folder)


def sentence(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    return result.stderr.strip().splitlines()[-1]


def test_wheel_requires_the_minor_version_of_its_torch(tree: Path, tmp_path: Path) -> None:
    metadata = prepare(tree, tmp_path)
    [requirement] = [
        packaging_requirements.Requirement(text)
        for text in metadata.get_all("Requires-Dist")
        if "extra" not in text
    ]
    assert requirement.name == "torch"
    assert torch.__version__ in requirement.specifier
    major, minor = map(int, MINOR.split("."))
    assert f"{major}.{minor}.9" in requirement.specifier
    assert f"{major}.{minor + 1}.0" not in requirement.specifier
    assert f"{major}.{minor - 1}.1" not in requirement.specifier


@pytest.mark.parametrize(
    ("cuda", "toolkit", "expected"), [("None", "", "cpu"), ("'13.0'", "13.0", "cu130")]
)
def test_version_says_what_a_wheel_is_built_for(
    cuda: str, toolkit: str, expected: str, tree: Path, tmp_path: Path
) -> None:
    home = tmp_path / "cuda"
    if toolkit:
        nvcc = home / "bin" / "nvcc"
        nvcc.parent.mkdir(parents=True)
        nvcc.write_text(f"#!/bin/sh\necho release {toolkit},\n")
        nvcc.chmod(0o755)
    metadata = prepare(
        tree,
        tmp_path,
        before=f"import torch.utils.cpp_extension; torch.version.cuda = {cuda}; "
        f"torch.utils.cpp_extension.CUDA_HOME = {str(home)!r}",
        CUDA_HOME=str(home),
        FUSEDRNN_CUDA="",
    )
    assert metadata["Version"] == f"{fusedrnn.__version__}+torch{MINOR}.{expected}"


def test_description_has_no_link_that_only_the_repository_resolves(
    tree: Path, tmp_path: Path
) -> None:
    """PyPI shows README alone: its links and pictures lead to the release's files."""
    metadata = prepare(tree, tmp_path)
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = metadata.get_payload()
    links = re.findall(r"\]\(([^)\s]+)", text)
    source = dict(each.split(", ") for each in metadata.get_all("Project-URL"))["Source"]
    own = re.compile(rf"{source}/(blob|raw)/v{re.escape(fusedrnn.__version__)}/([^#]+)")
    found = [match.groups() for match in map(own.match, links) if match]
    assert not [link for link in links if not re.match(r"https?://|#", link)]
    assert {kind for kind, _ in found} == {"blob", "raw"} and len(found) > 20
    assert not [path for _, path in found if not (ROOT / path).exists()]
    assert "](docs/" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_source_archive_is_for_every_supported_torch(tree: Path, tmp_path: Path) -> None:
    """And it is the same with torch and without, and has what its wheels are built from."""
    call = f"build_backend.build_sdist({str(tmp_path)!r})"
    found = []
    for before in ("pass", HIDE_TORCH):
        result = call_backend(tree, call, tool="build", before=before)
        assert result.returncode == 0, result.stderr
        archive = tmp_path / f"fusedrnn-{fusedrnn.__version__}.tar.gz"
        with tarfile.open(archive) as packed:
            names = {name.split("/", 1)[-1] for name in packed.getnames()}
            text = packed.extractfile(f"fusedrnn-{fusedrnn.__version__}/PKG-INFO").read().decode()
        archive.unlink()
        found.append((names, text))
    assert found[0] == found[1]
    names, text = found[0]
    metadata = email.message_from_string(text)
    assert "torch>=2.11" in metadata.get_all("Requires-Dist")
    assert "requires-dist" in {each.lower() for each in metadata.get_all("Dynamic")}
    assert {
        "tools/build_backend.py",
        "tools/build_environment.py",
        "tools/cuda_toolkit.py",
    } <= names
    sources = {
        path.relative_to(ROOT).as_posix()
        for folder in ("csrc", "fusedrnn", "tools")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".h", ".cpp", ".cu", ".cuh", ".py", ".typed")
        and "__pycache__" not in path.parts
    }
    assert sources | {"setup.py", "pyproject.toml", "LICENSE", "README.md"} <= names
    assert not {name for name in names if name.endswith((".so", ".o", ".pyc"))}
    assert {"SECURITY.md", "CITATION.cff"} <= names


@pytest.mark.parametrize("tool", TOOLS)
def test_installers_get_the_version_of_the_source_archive(
    tool: str, tree: Path, tmp_path: Path
) -> None:
    """pip refuses an archive whose wheel has another version; `python -m build` makes one of it."""
    information = tree / "PKG-INFO"
    information.touch()
    try:
        version = prepare(tree, tmp_path, tool=tool)["Version"]
    finally:
        information.unlink()
    assert version.startswith(fusedrnn.__version__)
    assert ("+" in version) == (tool == "build")


def test_pip_without_torch_stops_before_it_downloads_one(tree: Path) -> None:
    call = "build_backend.prepare_metadata_for_build_wheel('.')"
    assert sentence(call_backend(tree, call, before=HIDE_TORCH)) == (
        "fusedrnn cannot be built: torch is missing; "
        f"run: pip install torch ninja && pip install --no-build-isolation {tree}"
    )


def test_others_may_ask_for_metadata_without_torch(tree: Path, tmp_path: Path) -> None:
    """A resolver, as of `uv lock`, has no torch yet."""
    metadata = prepare(tree, tmp_path, tool="uv", before=HIDE_TORCH)
    assert metadata["Version"] == fusedrnn.__version__
    assert "torch>=2.11" in metadata.get_all("Requires-Dist")


ISOLATE = "sys.prefix = {prefix!r}; " + HIDE_TORCH
AFTER = {
    "uv": "uv pip install torch ninja && uv pip install --no-build-isolation {tree}",
    "build": "pip install torch ninja && python -m build --no-isolation",
}


@pytest.mark.parametrize("tool", AFTER)
def test_isolation_that_hides_torch_is_named_with_the_command(
    tool: str, tree: Path, tmp_path: Path
) -> None:
    prefix = {"uv": tmp_path / "builds-v0" / "x", "build": tmp_path / "build-env-x"}[tool]
    before = ISOLATE.format(prefix=str(prefix))
    result = call_backend(tree, "build_backend.build_wheel('.')", tool=tool, before=before)
    assert sentence(result) == (
        "fusedrnn cannot be built: its isolated build sees no environment that has torch; "
        f"run: {AFTER[tool].format(tree=tree)}"
    )


@pytest.mark.parametrize("tool", [*TOOLS, ""])
def test_missing_and_old_setuptools_are_one_sentence(tool: str, tree: Path) -> None:
    pip = "uv pip" if tool == "uv" else "pip"
    command = f"run: {pip} install 'setuptools>=77' torch ninja && "
    missing = call_backend(tree, "pass", tool=tool, before="sys.modules['setuptools'] = None")
    assert "setuptools is missing; " + command in sentence(missing)
    old = "import setuptools; setuptools.__version__ = '65.5.0'"
    text = sentence(call_backend(tree, "pass", tool=tool, before=old))
    assert "setuptools 65.5.0 is too old, expected 77 or newer; " + command in text


def test_old_and_broken_torch_are_one_sentence(tree: Path) -> None:
    call = "build_backend.prepare_metadata_for_build_wheel('.')"
    old = "import torch; torch.__version__ = '2.6.0+cpu'"
    text = sentence(call_backend(tree, call, tool="uv", before=old))
    assert re.search(r"torch 2\.6\.0\+cpu in \S+ is too old, expected 2\.11 or newer; run: ", text)
    assert "uv pip install 'torch>=2.11' && " in text
    text = sentence(call_backend(tree, call, before="sys.modules['typing_extensions'] = None"))
    assert "torch cannot be imported" in text
    assert "run: pip install --force-reinstall torch && pip install " in text


@pytest.fixture
def environment_with_torch(tmp_path: Path) -> Path:
    """A virtual environment as far as the search looks at one; its torch is another release."""
    prefix = tmp_path / "project" / ".venv"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folder = prefix / "lib" / version / "site-packages" / "torch"
    folder.mkdir(parents=True)
    (prefix / "bin").mkdir()
    (prefix / "pyvenv.cfg").write_text("home = /usr/bin\n")
    (folder / "version.py").touch()
    (folder / "__init__.py").write_text("__version__ = '99.7.1+cpu'\n")
    return prefix


# How an isolated build may find that environment: each variable, or what pyvenv.cfg tells.
@pytest.mark.skipif(sys.platform == "win32", reason="environments have other folders")
@pytest.mark.parametrize("way", ["VIRTUAL_ENV", "PATH", "PWD", "CONDA_PREFIX", "pyvenv.cfg"])
def test_isolated_build_finds_the_outer_environment(
    way: str, environment_with_torch: Path, tmp_path: Path
) -> None:
    prefix = tmp_path / "build-env-x"
    prefix.mkdir()
    (prefix / "pyvenv.cfg").write_text(
        f"command = {environment_with_torch}/bin/python -m venv {prefix}\n"
        if way == "pyvenv.cfg"
        else "home = /usr/bin\n"
    )
    outer = {
        "VIRTUAL_ENV": environment_with_torch,
        "PATH": f"{prefix}/bin{os.pathsep}{environment_with_torch}/bin",
        "PWD": environment_with_torch.parent / "folder",
        "CONDA_PREFIX": environment_with_torch,
    }
    code = f"""
import sys
sys.path[:] = [{str(ROOT / "tools")!r}] + [p for p in sys.path if "packages" not in p]
sys.prefix = {str(prefix)!r}
import build_environment
found = build_environment.find_torch()
print(found and found.__version__)
"""
    plain = {"PATH": "/usr/bin", "PWD": str(tmp_path)}
    for environment, expected in (
        (plain | ({way: str(outer[way])} if way in outer else {}), "99.7.1+cpu"),
        (plain, "99.7.1+cpu" if way == "pyvenv.cfg" else None),
    ):
        command = [sys.executable, "-S", "-c", code]
        done = run_process(command, cwd=tmp_path, env=environment, check=True)
        assert done.stdout.strip() == str(expected)


def test_a_build_leaves_a_link_to_its_torch(tmp_path: Path) -> None:
    """Which is made again for another torch, and where there was none."""
    code = f"""
import sys, types
sys.path.insert(0, {str(ROOT / "tools")!r})
import build_environment
build_environment.ROOT = build_environment.Path({str(tmp_path)!r})
for folder in ("one", "two"):
    sys.modules["torch"] = types.ModuleType("torch")
    sys.modules["torch"].__file__ = folder + "/torch/__init__.py"
    build_environment.note_torch()
    print(build_environment.os.readlink({str(tmp_path / "build" / "torch")!r}))
"""
    done = run_process([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert done.stdout.split() == ["one/torch", "two/torch"]


BACKEND = """
import os, zipfile
from pathlib import Path

def build_wheel(folder, *_):
    with open("builds", "a") as log:
        log.write(".")
    link = Path("build/torch")
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(os.environ["TORCH"])
    name = "fusedrnn-1.0"
    metadata = {"METADATA": "Metadata-Version: 2.1\\nName: fusedrnn\\nVersion: 1.0\\n",
                "WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
                "RECORD": ""}
    with zipfile.ZipFile(Path(folder, f"{name}-py3-none-any.whl"), "w") as wheel:
        for file, text in metadata.items():
            wheel.writestr(f"{name}.dist-info/{file}", text)
    return f"{name}-py3-none-any.whl"
"""


def test_uv_builds_again_when_a_source_or_the_torch_changed(tmp_path: Path) -> None:
    """uv itself, on a project with this one's cache-keys whose build is not worth the name."""
    uv = pytest.importorskip("uv").find_uv_bin()
    [keys] = re.findall(
        r"^\[tool\.uv\]\n.*?^\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL
    )
    project, torch_folder = tmp_path / "project", tmp_path / "site-packages" / "torch"
    source, version = project / "csrc" / "cells" / "gru.h", torch_folder / "version.py"
    for file in (source, version):
        file.parent.mkdir(parents=True)
        file.touch()
    (project / "backend.py").write_text(BACKEND)
    (project / "pyproject.toml").write_text(
        '[project]\nname = "fusedrnn"\nversion = "1.0"\n[build-system]\nrequires = []\n'
        f'build-backend = "backend"\nbackend-path = ["."]\n{keys}\n'
    )
    requirements = tmp_path / "requirements.txt"  # a folder that is named itself is always built
    requirements.write_text(f"fusedrnn @ {project.as_uri()}\n")
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    environment |= {"UV_CACHE_DIR": str(tmp_path / "cache"), "UV_OFFLINE": "1"}

    def builds(**changed: str) -> int:
        where = ["--python", sys.executable, "--target", tmp_path / "target"]
        run_process(
            [uv, "pip", "install", *where, "-r", requirements],
            cwd=project,
            env=environment | {"TORCH": str(torch_folder), "PWD": str(project)} | changed,
            check=True,
        )
        return len((project / "builds").read_text())

    def replace(file: Path) -> None:
        """As an installer does: a new file under the old name."""
        file.with_suffix(".new").touch()
        file.with_suffix(".new").replace(file)

    builds()
    settled = builds()  # the first build has left its link
    assert builds() == settled
    replace(version)
    assert builds() == settled + 1
    replace(source)
    assert builds() == settled + 2
    assert builds(VIRTUAL_ENV=str(tmp_path)) == settled + 3


def test_release_is_told_alike_everywhere() -> None:
    version = fusedrnn.__version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    [date] = re.findall(r"^date-released: (\S+)$", citation, re.MULTILINE)
    assert f"\nversion: {version}\n" in citation
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## [{version}] - {date}\n" in changes
