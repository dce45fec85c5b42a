"""README and docs/: every Python block runs as pasted, links lead somewhere, names are complete."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import distributed

import fusedrnn

ROOT = Path(fusedrnn.__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
TEXTS = [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md"))]
TEXTS += [ROOT / name / "README.md" for name in ("csrc", "bench", "examples/language_model")]
BLOCK = re.compile(r"^( *)```python(.*)\n((?:.*\n)*?)\1```$", re.MULTILINE)
# Those of docs/libraries want the libraries: tests_libraries runs them.
WITH_CODE = [p for p in PAGES if "```python" in p.read_text() and p.parent.name != "libraries"]
NEEDS = re.compile(r'title="needs: ([^"]+)"')


def blocks(text: str) -> Iterator[tuple[int, list[str], str]]:
    """The line, the modules that it says it needs, and the code of each Python block."""
    for found in BLOCK.finditer(text):
        needs = NEEDS.search(found[2])
        code = re.sub(rf"^{found[1]}", "", found[3], flags=re.MULTILINE)
        line = text.count("\n", 0, found.start()) + 2
        yield line, needs[1].split(", ") if needs else [], code


def missing(needs: list[str]) -> list[str]:
    """Of what a block needs, what is not here: modules, and "a GPU"."""
    return [
        name
        for name in needs
        if not (torch.cuda.is_available() if name == "a GPU" else importlib.util.find_spec(name))
    ]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("path", WITH_CODE, ids=name_of)
def test_python_blocks_run_as_pasted(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled_part: None
) -> None:
    """Each in a namespace of its own, from an empty folder."""
    monkeypatch.chdir(tmp_path)
    skipped, count = [], 0
    for line, needs, code in blocks(path.read_text(encoding="utf-8")):
        count += 1
        absent = missing(needs)
        if absent:
            skipped.append(f"{name_of(path)}:{line} needs {', '.join(absent)}")
            continue
        torch.manual_seed(0)
        # Tracebacks have the line of the page.
        exec(compile("\n" * (line - 1) + code, str(path), "exec"), {"__name__": "__main__"})
        torch._dynamo.reset()
        assert not distributed.is_initialized(), f"line {line}: a process group was left"
    assert count
    if skipped:
        pytest.skip("; ".join(skipped))


def test_blocks_are_found_with_what_they_need() -> None:
    text = (
        'a\n```python\nx = 1\n```\n- b\n\n    ```python title="needs: p, a GPU"\n    y\n    ```\n'
    )
    assert list(blocks(text)) == [(3, [], "x = 1\n"), (8, ["p", "a GPU"], "y\n")]
    assert missing(["torch", "no_such_package"]) == ["no_such_package"]


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


def anchors(path: Path) -> set[str]:
    """Those of a page's headings, as GitHub and mkdocs make them, and of its documented names."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\s.-]", "", heading).replace(".", "").lower() for heading in headings]
    return {re.sub(r"\s", "-", each.strip()) for each in plain} | set(
        re.findall(r"^::: (\S+)", text, flags=re.MULTILINE)
    )


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_links_lead_to_files_and_headings(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target, anchor in re.findall(r"\]\(([^)\s#]*)#?([^)\s]*)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        found = (path.parent / target).resolve() if target else path
        assert found.exists(), f"{target}: no such file"
        for included in re.findall(r"^<!-- include (\S+) -->$", _text(found), flags=re.MULTILINE):
            found = ROOT / included
        assert not anchor or anchor in anchors(found), f"{target}: no heading #{anchor}"


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.suffix == ".md" else ""


def test_the_reference_has_every_public_name() -> None:
    listed = {
        name
        for page in (DOCS / "api").glob("*.md")
        for name in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    }
    modules = [fusedrnn, fusedrnn.functional, fusedrnn.compat]
    modules += [importlib.import_module(f"fusedrnn.{name}") for name in ("ops", "info", "run")]
    public = {f"{module.__name__}.{name}" for module in modules for name in module.__all__}
    assert public - listed == {"fusedrnn.__version__", "fusedrnn.run.main"}
    for name in listed:
        assert inspect.getdoc(pkgutil.resolve_name(name)), name


def tool(name: str) -> ModuleType:
    """A script of tools/, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where a NamedTuple looks for its annotations
    spec.loader.exec_module(module)
    return sys.modules.pop(name)


def test_the_table_of_readme_is_that_of_the_stored_results() -> None:
    rows = tool("draw_speedups").table()
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 6
    assert [row for row in rows if row not in readme] == []


def test_included_texts_have_links_of_the_site(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hooks = tool("docs_hooks")
    monkeypatch.setattr(hooks, "ROOT", tmp_path)
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "README.md").write_text(
        "[a](../README.md#b) [c](../LICENSE) [d](#e) [f](https://g) ![h](../docs/assets/i.svg)"
    )
    page = hooks.include("<!-- include csrc/README.md -->", "how-it-works/native.md")
    assert page == "[a](../index.md#b) c [d](#e) [f](https://g) ![h](../assets/i.svg)"
