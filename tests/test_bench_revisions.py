"""`python -m bench compare` and `instructions`: what they refuse, and one small comparison.

Nothing is built: the revision that is compared is the present tree itself.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import run_process

from bench import environment, instructions, revisions, store
from bench.__main__ import main
from bench.environment import UsageError

ROOT = Path(__file__).resolve().parent.parent
CASE = ["--shapes", "2,5,8,8", "--cells", "gru", "--modes", "infer", "--threads", "1"]
SMALL = [*CASE, "--quick", "--dirty"]

pytestmark = pytest.mark.skipif(
    environment.revision() == "unknown", reason="needs git and the project's repository"
)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> None:
    """Revisions are the present tree, as it is built."""

    @contextlib.contextmanager
    def checked_out(commit: str) -> Iterator[Path]:
        yield ROOT

    monkeypatch.setattr(revisions, "checked_out", checked_out)
    monkeypatch.setattr(revisions, "build", lambda tree: None)


def write_test(folder: Path, name: str, statement: str) -> str:
    path = folder / f"test_{name}.py"
    path.write_text(f"def test_{name}():\n    {statement}\n")
    return str(path)


def test_compare_times_a_revision_beside_the_present_tree(
    built: None, compiled_part: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    green, out = write_test(tmp_path, "green", "assert True"), tmp_path / "out.jsonl"
    assert main(["compare", "HEAD", *SMALL, "--tests", green, "--out", str(out)]) == 0
    before, after = (json.loads(line) for line in out.read_text().splitlines())
    assert before["provider"] == f"fusedrnn@{revisions.resolve('HEAD')}"
    assert after["provider"] == "fusedrnn"
    assert after["best_peer"]["provider"] == before["provider"]
    assert before["error_output"] == after["error_output"] < 1e-6
    printed = capsys.readouterr().out
    assert "fusedrnn beside its best peer" in printed and "failures: none" in printed


def test_compare_times_nothing_over_a_red_test(
    built: None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(revisions, "checked_out", lambda commit: pytest.fail("was timed"))
    tests = [write_test(tmp_path, "red", "assert 1 == 2"), write_test(tmp_path, "green", "pass")]
    out = tmp_path / "out.jsonl"
    assert main(["compare", "HEAD", *SMALL, "--out", str(out), "--tests", *tests]) == 1
    printed = capsys.readouterr().out
    assert "red, so nothing is timed" in printed and "test_red.py::test_red" in printed
    assert "test_green" not in printed.partition("nothing is timed")[2] and not out.exists()


def test_compare_says_which_tests_cannot_be_run(
    built: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "test_missing.py")
    assert main(["compare", "HEAD", *SMALL, "--tests", missing]) == 2
    error = capsys.readouterr().err
    assert error.startswith("the tests cannot be run") and "test_missing.py" in error


@pytest.mark.parametrize("command", [["compare"], ["instructions", "--revision"]])
def test_an_unknown_revision_is_an_error(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(instructions, "require_valgrind", lambda: None)
    assert main([*command, "no-such-revision"]) == 2
    assert capsys.readouterr().err.startswith("revision 'no-such-revision': expected a commit of")


def test_uncommitted_changes_are_an_error_unless_they_are_allowed(
    built: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environment, "revision", lambda: "1a2b3c4d5e-dirty")
    assert main(["compare", "HEAD", *CASE]) == 2
    assert capsys.readouterr().err.endswith("commit, or add --dirty\n")


def test_a_worktree_is_of_the_commit_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    monkeypatch.setattr(revisions, "build", built.append)
    commit = revisions.resolve("HEAD")
    with pytest.raises(KeyError), revisions.checked_out(commit) as tree:
        assert built == [tree] and (tree / "setup.py").is_file()
        head = run_process(["git", "rev-parse", "HEAD"], cwd=tree).stdout
        assert head.startswith(commit)
        raise KeyError
    assert not tree.exists() and str(tree) not in environment.git("worktree", "list")


def test_a_build_that_fails_shows_its_last_lines(tmp_path: Path) -> None:
    (tmp_path / "setup.py").write_text("print('compiling')\nraise SystemExit('no compiler')\n")
    with pytest.raises(UsageError, match="(?s)the build of .* failed:\ncompiling.*no compiler"):
        revisions.build(tmp_path)


def test_a_tree_without_a_build_is_not_timed_as_its_fallback(tmp_path: Path) -> None:
    package = tmp_path / "fusedrnn"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "_library.py").write_text("available, reason = False, 'no file'\n")
    use = "import sys; from pathlib import Path; from bench import revisions;"
    use += f"revisions.use_tree(Path({str(tmp_path)!r}))"
    done = run_process([sys.executable, "-c", use], cwd=ROOT)
    assert f"the compiled part of {tmp_path} cannot be loaded: no file" in done.stderr
    with pytest.raises(UsageError, match="expected it from"):
        revisions.use_tree(tmp_path)  # this process has imported another one
    sys.path.remove(str(tmp_path))


def test_the_default_tests_exist() -> None:
    assert [name for name in revisions.TESTS if not (ROOT / name).is_file()] == []


def test_callgrind_totals_are_read_and_a_function_never_called_is_an_error() -> None:
    assert instructions.parse("events: Ir\nfn=(1) f\n0 5\n\ntotals: 314387\n") == 314387
    with pytest.raises(RuntimeError, match="no line of totals"):
        instructions.parse("events: Ir\n")
    with pytest.raises(RuntimeError, match="no call of fusedrnn::layer_forward_cpu"):
        instructions.parse("totals: 0\n")


def test_instructions_need_valgrind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert main(["instructions"]) == 2
    assert capsys.readouterr().err.startswith("valgrind is not on PATH; install it")


@pytest.fixture
def valgrind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A program that writes what callgrind would write, in place of valgrind."""
    program = tmp_path / "valgrind"
    program.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "[out] = [arg.partition('=')[2] for arg in sys.argv if 'out-file' in arg]\n"
        "open(out, 'w').write(f'totals: {1000 if \"@\" in sys.argv[-2] else 500}\\n')\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return program


def test_instructions_of_two_trees_stand_side_by_side(
    built: None, valgrind: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    assert main(["instructions", "--revision", "HEAD", "--dirty", "--out", str(out)]) == 0
    assert [record["instructions"] for record in store.load(out)] == [1000, 500] * 2
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["GRU", "train", "4", "16", "32", "32", "fusedrnn", "500", "2.000"] in rows


def test_a_case_that_cannot_be_counted_is_a_failed_record(
    built: None, valgrind: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    valgrind.write_text(f"#!{sys.executable}\nraise SystemExit('unhandled instruction')\n")
    assert main(["instructions", "--dirty", "--out", str(tmp_path / "out.jsonl")]) == 1
    assert "fusedrnn: exit code 1: unhandled instruction" in capsys.readouterr().out


def test_the_counted_step_runs_without_valgrind(compiled_part: None) -> None:
    for case in instructions.CASES:
        command = [sys.executable, "-c", instructions.STEP, case.name, "fusedrnn", str(ROOT)]
        run_process(command, cwd=ROOT, check=True)


def test_the_harness_imports_no_fusedrnn_before_a_process_has_chosen_its_tree() -> None:
    code = "import sys, bench.measure; print('fusedrnn' in sys.modules)"
    done = run_process([sys.executable, "-c", code], cwd=ROOT)
    assert done.stdout.strip() == "False", done.stderr
