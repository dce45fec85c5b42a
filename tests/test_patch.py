"""patch on code as people write it, its report, and `python -m fusedrnn.run`."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from processes import run_process
from torch import nn

import fusedrnn
from fusedrnn import compat

NAMES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")


def _classes() -> list[type]:
    return [getattr(space, name) for space in (nn, nn.modules) for name in NAMES]


def test_patch_names_the_compat_classes_and_restores() -> None:
    before = _classes()
    with fusedrnn.patch():
        for name in NAMES:
            assert getattr(torch.nn, name) is getattr(compat, name)
        modules = [getattr(nn, name)(5, 7) for name in NAMES]
    assert _classes() == before
    for name, module in zip(NAMES, modules, strict=True):
        assert type(module) is getattr(compat, name) and isinstance(module, getattr(nn, name))


def test_patch_restores_after_an_exception_and_when_nested() -> None:
    before = _classes()
    with pytest.raises(KeyError), fusedrnn.patch():
        raise KeyError
    assert _classes() == before
    with fusedrnn.patch():
        with fusedrnn.patch():
            assert nn.GRU is compat.GRU
        assert nn.GRU is compat.GRU
    assert _classes() == before
    first, second = fusedrnn.patch(), fusedrnn.patch()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert nn.GRU is compat.GRU
    second.__exit__(None, None, None)
    assert _classes() == before


def test_patch_decorates_a_function() -> None:
    build: Callable[[], nn.Module] = fusedrnn.patch()(lambda: nn.GRU(5, 7))
    assert type(build()) is compat.GRU
    assert type(nn.GRU(5, 7)) is not compat.GRU


def test_replace_within_patch_still_converts_torch_modules() -> None:
    module = nn.GRU(5, 7)
    with fusedrnn.patch():
        fusedrnn.replace(module)
        assert type(module) is compat.GRU
        pickle.loads(pickle.dumps(nn.Sequential(nn.LSTM(5, 7))))
        fusedrnn.to_torch(module)
    assert type(module) is nn.GRU


def test_torch_modules_pickle_within_patch() -> None:
    module = nn.GRU(5, 7)
    with fusedrnn.patch():
        assert type(pickle.loads(pickle.dumps(module))) is type(module)


# the report


def test_the_report_has_what_is_built_and_where() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fusedrnn.patch() as report:
            assert report.model is None and not report.replaced
            first, second = ([getattr(nn, name)(5, 7) for name in NAMES] for _ in range(2))
            one, two = list(first), list(second)
            own = nn.Sequential(fusedrnn.GRU(5, 7), nn.Linear(5, 7))
    nn.GRU(5, 7)
    lines = {where for where, *_ in report.replaced}
    assert len(lines) == 1 and lines.pop().startswith(f"{__name__}:")
    assert [row[1:] for row in report.replaced] == 2 * [
        (f"torch.nn.{name}", f"fusedrnn.compat.{name}") for name in NAMES
    ]
    assert [cls for _, cls in report.already] == ["fusedrnn.GRU"] and not report.skipped
    assert str(report).startswith("12 replaced, 0 skipped, 1 already\n")
    assert str(report).count("(2 times)") == len(NAMES)
    assert [type(module) for module in one] == [type(module) for module in two]
    assert type(own[0]) is fusedrnn.GRU


def test_what_only_changes_within_the_block_was_not_built_there() -> None:
    module = nn.LSTM(5, 7)
    with fusedrnn.patch() as report:
        nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
        pickle.loads(pickle.dumps(nn.Linear(5, 7)))
        fusedrnn.replace(module)
        nn.Sequential(module).double()
    assert str(report) == "0 replaced, 0 skipped"


def test_each_of_nested_blocks_reports_what_was_built_in_it() -> None:
    with fusedrnn.patch() as outer:
        nn.GRU(5, 7)
        with fusedrnn.patch() as inner:
            nn.LSTM(5, 7)
        nn.RNN(5, 7)
    assert [old for _, old, _ in outer.replaced] == [
        "torch.nn.GRU",
        "torch.nn.LSTM",
        "torch.nn.RNN",
    ]
    assert [old for _, old, _ in inner.replaced] == ["torch.nn.LSTM"]


@pytest.fixture
def library() -> Iterator[ModuleType]:
    """A module that took the classes from torch.nn at import, as flair does."""
    module = ModuleType("captured_library")
    source = """
        from torch.nn import GRU, GRUCell, LSTM, LSTMCell, RNN, RNNCell
        from torch.nn import LSTM as Layer
        BY_NAME = {"lstm": LSTM, "gru": GRU}
        class Mine(LSTM):
            def __init__(self, *sizes):
                super().__init__(*sizes)
        def build(name):
            return globals()[name](5, 7)
        def build_by_name(name):
            return BY_NAME[name](5, 7)
        """
    exec(textwrap.dedent(source), vars(module))
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


@pytest.mark.parametrize("name", [*NAMES, "Layer"])
def test_a_class_taken_before_the_block_is_warned_of(library: ModuleType, name: str) -> None:
    with (
        pytest.warns(UserWarning, match=r"patch: torch.nn's own layers were built") as caught,
        fusedrnn.patch() as report,
    ):
        module = library.build(name)
    cls = type(module).__name__
    assert not report.replaced
    ((where, old, reason),) = report.skipped
    assert where == "captured_library:9" and old == f"torch.nn.{cls}"
    assert "patch(modules=['captured_library'])" in reason
    assert reason in str(caught[0].message) and caught[0].filename == __file__


def test_a_subclass_made_before_the_block_is_warned_of(library: ModuleType) -> None:
    with pytest.warns(UserWarning, match="subclasses=True"), fusedrnn.patch() as report:
        module = library.build("Mine")
    assert report.skipped[0][:2] == ("captured_library:9", "captured_library.Mine")
    assert fusedrnn.replace(module, subclasses=True).replaced


def test_an_exception_is_not_hidden_behind_the_warning(library: ModuleType) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeyError), fusedrnn.patch() as report:
            library.build("GRU")
            raise KeyError
    assert report.skipped


@pytest.mark.parametrize("by", ["name", "object"])
def test_names_in_modules_are_patched_and_restored(library: ModuleType, by: str) -> None:
    before = dict(vars(library)), dict(library.BY_NAME)
    modules = ["captured_library" if by == "name" else library]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fusedrnn.patch(modules=modules) as report:
            for name in (*NAMES, "Layer"):
                assert type(library.build(name)) is getattr(compat, library.build(name)._get_name())
            assert type(library.build_by_name("gru")) is compat.GRU
            with fusedrnn.patch(modules=modules):
                assert library.LSTM is compat.LSTM
            assert library.LSTM is compat.LSTM
    assert (dict(vars(library)), dict(library.BY_NAME)) == before
    assert len(report.replaced) == 15 and not report.skipped


def test_blocks_that_overlap_restore_when_the_last_ends(library: ModuleType) -> None:
    first, second = fusedrnn.patch(), fusedrnn.patch(modules=[library, library, nn])
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert library.GRU is nn.GRU is compat.GRU
    second.__exit__(None, None, None)
    assert library.GRU is nn.GRU is nn.modules.GRU is nn.modules.rnn.GRU


def test_a_module_is_imported_where_it_is_not_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "not_imported_yet.py").write_text("from torch.nn import GRU\n")
    monkeypatch.syspath_prepend(tmp_path)
    with fusedrnn.patch(modules=["not_imported_yet"]):
        library = sys.modules.pop("not_imported_yet")
        assert library.GRU is compat.GRU
    assert library.GRU is nn.GRU


@pytest.mark.parametrize(
    ("modules", "error", "match"),
    [
        ("flair", TypeError, r"got 'flair'; write modules=\[...\]"),
        (os, TypeError, "Python modules and their names, got a module"),
        ([nn.LSTM], TypeError, "got one with a type"),
        (["os"], ValueError, "got os, which has none"),
        (["torch.nn.modules.rnn"], ValueError, "got torch.nn.modules.rnn, which defines them"),
        (["no_such_module"], ModuleNotFoundError, "no_such_module"),
    ],
    ids=repr,
)
def test_modules_that_patch_nothing_are_an_error(
    modules: Any, error: type[Exception], match: str
) -> None:
    before = _classes()
    with pytest.raises(error, match=match), fusedrnn.patch(modules=modules):
        pass
    assert _classes() == before


# python -m fusedrnn.run

SCRIPT = """
import pickle, sys
import helper
from torch import nn
from torch.nn import LSTM

class Local(nn.GRU):
    pass

if __name__ == "__main__":
    layers = [LSTM(5, 7), nn.RNNCell(5, 7), Local(5, 7), helper.build()]
    print(sys.argv[1:], sys.argv[0] == __file__, [type(m).__module__ for m in layers])
    assert type(pickle.loads(pickle.dumps(layers[2]))) is Local
    if "--fail" in sys.argv:
        raise RuntimeError("as asked")
    sys.exit(int(sys.argv[1]))
"""


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "helper.py").write_text("from torch.nn import GRU\ndef build(): return GRU(5, 7)\n")
    package = folder / "package"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text("")
    (package / "train.py").write_text(SCRIPT)
    (folder / "train.py").write_text(SCRIPT)
    path = str(Path(fusedrnn.__file__).parents[1])
    return run_process(
        [sys.executable, "-m", "fusedrnn.run", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
    )


@pytest.mark.parametrize(
    "target", [["train.py"], ["-m", "package.train"]], ids=["script", "module"]
)
def test_run_patches_a_program_before_its_imports(tmp_path: Path, target: list[str]) -> None:
    result = _run(tmp_path, *target, "3", "-m", "--", "--flag")
    places = ["fusedrnn.compat", "fusedrnn.compat", "__main__", "fusedrnn.compat"]
    assert result.stdout == f"['3', '-m', '--', '--flag'] True {places}\n", result.stderr
    assert result.returncode == 3
    assert "fusedrnn.run: 4 replaced, 0 skipped\n" in result.stderr
    assert "  helper:2     torch.nn.GRU -> fusedrnn.compat.GRU" in result.stderr


def test_run_finds_what_lies_beside_a_script_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    _run(folder, "--help")
    result = _run(tmp_path, "elsewhere/train.py", "0")
    assert result.returncode == 0, result.stderr
    assert "4 replaced, 0 skipped" in result.stderr


def test_run_fails_as_the_program_does(tmp_path: Path) -> None:
    result = _run(tmp_path, "train.py", "--fail")
    assert result.returncode == 1
    assert "RuntimeError: as asked" in result.stderr and "4 replaced" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "status"), [([], 2), (["-m"], 2), (["-h"], 0), (["--help"], 0)], ids=str
)
def test_run_says_how_it_is_used(tmp_path: Path, arguments: list[str], status: int) -> None:
    result = _run(tmp_path, *arguments)
    assert result.returncode == status
    assert result.stderr.startswith("usage: python -m fusedrnn.run (SCRIPT | -m MODULE)")
