"""Fixtures and options of every Python test.

FUSEDRNN_REQUIRE_CUDA=1 turns the skip of a test on a missing CUDA device into a failure.
`pytest --fallback` hides the compiled part, so that the PyTorch fallback is tested.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import summary
import torch

import fusedrnn
from fusedrnn import _library


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fallback", action="store_true", help="test without the compiled part")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        torch.set_num_threads(1)  # there is a worker on each core (pytest-xdist)
    # torch.nn's layers on CUDA round their inputs to TF32 unless told not to; ours do not.
    torch.backends.cudnn.allow_tf32 = False
    if config.getoption("--fallback"):
        _library.available = False
        _library.reason = "hidden by --fallback"


def pytest_report_header(config: pytest.Config) -> str:
    compiled = "compiled" if _library.available else f"fallback ({_library.reason})"
    return f"fusedrnn {fusedrnn.__version__}: {compiled}; torch {torch.__version__}"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    skipped = sum(
        "no CUDA device" in str(report.longrepr)
        for report in terminalreporter.getreports("skipped")
    )
    if skipped:
        terminalreporter.write_line(f"CUDA: {skipped} tests skipped, no CUDA device with kernels")
    passed = terminalreporter.getreports("passed")
    for line in summary.lines(found for report in passed for found in report.user_properties):
        terminalreporter.write_line(line)


def _has_cuda() -> bool:
    """A CUDA device, and kernels for it in the compiled part."""
    return torch.cuda.is_available() and _library.has_cuda_kernels()


def _needs_cuda() -> None:
    if _has_cuda():
        return
    reason = "no CUDA device with kernels for it"
    if os.environ.get("FUSEDRNN_REQUIRE_CUDA") == "1":
        pytest.fail(f"{reason}, and FUSEDRNN_REQUIRE_CUDA=1")
    pytest.skip(reason)


class _Environment(pytest.MonkeyPatch):
    """pytest's, whose changes of the environment fusedrnn is told."""

    def setenv(self, *args: Any, **kwargs: Any) -> None:
        super().setenv(*args, **kwargs)
        fusedrnn.reload_environment()

    def delenv(self, *args: Any, **kwargs: Any) -> None:
        super().delenv(*args, **kwargs)
        fusedrnn.reload_environment()

    def undo(self) -> None:
        super().undo()
        fusedrnn.reload_environment()


@pytest.fixture
def monkeypatch() -> Iterator[pytest.MonkeyPatch]:
    environment = _Environment()
    yield environment
    environment.undo()


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda":
        _needs_cuda()
    return request.param


@pytest.fixture
def cuda() -> str:
    """For a test of what only CUDA has."""
    _needs_cuda()
    return "cuda"


@pytest.fixture
def compiled_part() -> None:
    """For a test of what the fallback cannot do."""
    if not _library.available:
        pytest.skip(f"needs the compiled part: {_library.reason}")


@pytest.fixture
def conformance(record_property: Callable[[str, Any], None]) -> dict[str, int]:
    """Cases run, by kind; the sum is printed when the tests end."""
    counts = dict.fromkeys(summary.CONFORMANCE_KINDS, 0)
    record_property("conformance", counts)
    return counts


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    torch.manual_seed(20)
    yield
    assert torch.get_default_dtype() == torch.float32, "a test left its default dtype behind"
