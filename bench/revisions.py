"""Git revisions as trees: checked out in a temporary folder, built by their own setup.py, and
timed as a provider of their own; and the tests that the present tree must pass before that."""

from __future__ import annotations

import contextlib
import importlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.cases import Case
from bench.environment import REPOSITORY, UsageError, git
from bench.problem import Plan
from bench.providers import FusedProvider

# The tests that compare results and gradients with torch or float64.
TESTS = tuple(
    f"tests/test_{name}.py"
    for name in ("cells", "modules", "packed", "lengths", "reset", "property")
)
LAST_LINES = 20


class TreeProvider(FusedProvider):
    """fusedrnn as it is in a built tree; its process must not have imported another one."""

    def __init__(self, name: str, tree: Path) -> None:
        super().__init__()
        self.name = name
        self.tree = tree

    def set_up(self, case: Case) -> None:
        """Imports the tree's package, with its compiled part."""
        use_tree(self.tree)

    def plan(self, case: Case) -> Plan | None:
        """None of a revision that must be asked in another way."""
        try:
            return super().plan(case)
        except (AttributeError, RuntimeError, ValueError):
            return None


def use_tree(tree: Path) -> None:
    """Make ``import fusedrnn`` mean the tree's."""
    sys.path.insert(0, str(tree))
    package = importlib.import_module("fusedrnn")
    if not Path(package.__file__).is_relative_to(tree):
        raise UsageError(f"fusedrnn: expected it from {tree}, got {package.__file__}")
    library = importlib.import_module("fusedrnn._library")
    if not library.available:
        raise UsageError(f"the compiled part of {tree} cannot be loaded: {library.reason}")


def resolve(revision: str) -> str:
    """The name of the commit, short as in `bench.environment.revision`."""
    try:
        commit = git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
        return git("rev-parse", "--short=10", commit)
    except OSError as error:
        raise UsageError(f"git cannot be run: {error}") from None
    except subprocess.CalledProcessError as error:
        raise UsageError(
            f"revision {revision!r}: expected a commit of {REPOSITORY}, git says: "
            f"{error.stderr.strip()}"
        ) from None


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A built worktree of the commit, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="fusedrnn-") as folder:
        tree = Path(folder).resolve() / commit
        try:
            git("worktree", "add", "--detach", str(tree), commit)
        except subprocess.CalledProcessError as error:
            raise UsageError(f"no worktree of {commit}: {error.stderr.strip()}") from None
        try:
            build(tree)
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))


def build(tree: Path) -> None:
    """Build what has changed, in place."""
    done = _run(tree, "setup.py", "build_ext", "--inplace")
    if done.returncode:
        raise UsageError(f"the build of {tree} failed:\n{tail(done.stdout)}")


def red_tests(tests: Sequence[str]) -> list[str]:
    """The tests of the present tree that fail, as pytest names them."""
    done = _run(REPOSITORY, "-m", "pytest", "--tb=no", "-rfE", *tests)
    if done.returncode == 0:
        return []
    red = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if not red:
        raise UsageError(f"the tests cannot be run:\n{tail(done.stdout)}")
    return red


def _run(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, *arguments),
        cwd=tree,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def tail(output: str) -> str:
    """The end of a failed command's output."""
    return "\n".join(output.strip().splitlines()[-LAST_LINES:])
