"""Threads and processes: any number of threads, both directions at once, forks, few cores."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CELLS, DTYPES, assert_close, tolerance
from layer_cases import CELL_VARIANTS, VARIANTS, Layer, backward_args, make_layer, operator, oracle
from processes import busy_processes, in_forked_child, run_process
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fusedrnn import _library, ops

if not _library.available:
    pytest.skip(f"needs the compiled part: {_library.reason}", allow_module_level=True)

OPS = torch.ops.fusedrnn
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
linux = pytest.mark.skipif(sys.platform != "linux", reason="sets the affinity, as on Linux")


@pytest.fixture
def two_threads() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads(cell: str, threads: int, two_threads: None) -> None:
    torch.set_num_threads(threads)
    layer = make_layer(cell, torch.float32, sizes=(7, 17, 33, 65))
    actual, expected = operator(layer), oracle(layer)
    for name, result in actual.items():
        assert_close(result, expected[name], tolerance(torch.float32, 2 * 13), name)


def busy_layer() -> Layer:
    """One that the planner gives more than one thread."""
    return make_layer("lstm", torch.float32, sizes=(16, 32, 128, 128))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_process_runs_after_its_parent_used_threads(two_threads: None) -> None:
    args = backward_args(busy_layer())
    expected = OPS.layer_backward(*args)[0]

    def body() -> None:
        # Only this operator: on two threads torch's own would hang.
        result = OPS.layer_backward(*args)[0]
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        assert_close(result, expected, tolerance(torch.float32, 32))

    assert in_forked_child(body) == 0


class Outputs(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, idx: int) -> Tensor:
        torch.manual_seed(idx)
        return busy_layer().run(ops.layer_forward)[0].sum()


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_data_loader_workers(two_threads: None) -> None:
    expected = torch.stack([Outputs()[idx] for idx in range(4)])
    loader = DataLoader(Outputs(), num_workers=2, multiprocessing_context="fork", timeout=60)
    assert_close(torch.cat(list(loader)), expected, tolerance(torch.float32, 16))


def test_threads_of_the_caller(two_threads: None) -> None:
    """Several Python threads call at once, each with a region of its own."""
    layer = busy_layer()
    expected = operator(layer)
    with ThreadPoolExecutor(4) as pool:
        for actual in pool.map(lambda _: operator(layer), range(8)):
            assert all(torch.equal(actual[name], expected[name]) for name in expected)


def explained(*sizes: int, directions: int = 1) -> str:
    seq_len, batch_size, input_size, hidden_size = sizes
    [(*_, facts)] = OPS.explain_layer(
        "lstm", torch.float32, seq_len, batch_size, input_size, hidden_size, 0, directions, False
    )
    return "\n".join(map(": ".join, facts))


def assert_same_bits(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name in expected:
        assert torch.equal(actual[name], expected[name]), name


@pytest.mark.skipif(CORES < 2, reason="two directions take two cores")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("cell", "variant"), CELL_VARIANTS)
def test_directions_at_the_same_time_compute_what_they_do_in_turn(
    cell: str,
    variant: str,
    dtype: torch.dtype,
    two_threads: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same bits, except where the gradients of the input are added up."""
    monkeypatch.setenv("FUSEDRNN_SCHEDULE", "persistent")
    sizes = (200, 9, 33, 65)
    layer = make_layer(cell, dtype, **VARIANTS[variant] | {"bidirectional": True, "sizes": sizes})
    assert "both at the same time" in explained(*sizes, directions=2)
    actual = operator(layer)
    assert_same_bits(operator(layer), actual)
    torch.set_num_threads(1)
    assert "one after the other" in explained(*sizes, directions=2)
    expected = operator(layer)
    assert_close(
        actual.pop("grad_input"),
        expected.pop("grad_input"),
        tolerance(dtype, 2 * 200),
        "grad_input",
    )
    assert_same_bits(actual, expected)


def test_threads_follow_torch_and_end_at_the_cores(two_threads: None) -> None:
    sizes = (100, 1, 1024, 1024)
    for threads in (1, 2, 1, 1000):
        torch.set_num_threads(threads)
        [planned] = re.findall(r"(\d+) threads?\b", explained(*sizes).splitlines()[1])
        assert int(planned) <= min(threads, CORES)
        assert threads == 1 or CORES == 1 or int(planned) > 1


# Runs every cell with more threads than cores and prints a hash of the results; it may be pinned
# to one core, before torch is imported or later.
PROGRAM = """
import hashlib, os, sys
if "pinned" in sys.argv:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.environ["FUSEDRNN_SCHEDULE"] = "persistent"
import torch
from layer_cases import make_layer, operator
from cases import CELLS
if "pinned later" in sys.argv:
    torch.ones(1 << 20).add_(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
torch.set_num_threads(8)
whole = hashlib.sha256()
for cell in CELLS:
    for bidirectional in (False, True):
        torch.manual_seed(3)
        sizes = (40, 5, 64, 128)
        layer = make_layer(cell, torch.float32, sizes=sizes, bidirectional=bidirectional)
        for name, result in operator(layer).items():
            if not (bidirectional and name == "grad_input"):
                whole.update(result.detach().numpy().tobytes())
sizes = (100, 1, 1024, 1024, 0, 1)
[(*_, facts)] = torch.ops.fusedrnn.explain_layer("lstm", torch.float32, *sizes, False)
print(whole.hexdigest(), dict(facts)["forward"].split(", ")[2])
"""


# Compares layers with torch.nn, on as many threads as the argument says, and prints a hash of what
# they gave.
COMPARE = """
import hashlib, sys, torch, fusedrnn
torch.set_num_threads(int(sys.argv[1]))
whole = hashlib.sha256()
for name in ("RNN", "LSTM", "GRU"):
    for batch_size in (3, 70):
        torch.manual_seed(5)
        expected = getattr(torch.nn, name)(33, 96)
        layer = getattr(fusedrnn, name)(33, 96)
        layer.load_state_dict(expected.state_dict())
        found = []
        for module in (layer, expected):
            input = torch.linspace(-1, 1, 20 * batch_size * 33).reshape(20, batch_size, 33)
            output = module(input.requires_grad_())[0]
            output.square().sum().backward()
            found.append([output, input.grad, *(p.grad for p in module.parameters())])
        for actual, wanted in zip(*found):
            torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-4)
            whole.update(actual.detach().numpy().tobytes())
print(whole.hexdigest())
"""


@linux
def test_many_more_threads_than_cores_give_torchs_results_and_the_bits_of_one() -> None:
    """It ends, within the bound that every process has."""
    found = {run_program(threads, program=COMPARE)[0] for threads in ("1", "16", "64")}
    assert len(found) == 1


# Runs a layer whose products torch computes, with more threads than cores, and prints how many
# threads the process got by it, at most.
COUNT_THREADS = """
import os, sys, threading
import torch
from layer_cases import backward_args, make_layer
torch.set_num_threads(1)
args = backward_args(make_layer("lstm", torch.float32, sizes=(100, 1, 128, 128)))
threads = 4 * os.cpu_count()
torch.set_num_threads(threads)
def count():
    return len(os.listdir("/proc/self/task"))
def run():
    if "pinned later" in sys.argv:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(threads)
    for _ in range(20):
        torch.ops.fusedrnn.layer_backward(*args)
    left.append(torch.get_num_threads())
left = []
before = most = count()
caller = threading.Thread(target=run)
caller.start()
while caller.is_alive():
    most = max(most, count())
assert left == [threads], left
print(most - before)
"""


def run_program(*arguments: str, program: str = PROGRAM) -> list[str]:
    """What the program prints."""
    folder = Path(__file__).resolve().parent
    path = os.pathsep.join([str(folder), str(folder.parent), os.environ.get("PYTHONPATH", "")])
    result = run_process(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        env=os.environ | {"PYTHONPATH": path},
        check=True,
    )
    return result.stdout.strip().split(maxsplit=1)


@linux
@pytest.mark.parametrize("when", ["pinned", "pinned later"])
@pytest.mark.parametrize("isa", OPS.supported_cpu_isas())
def test_a_process_on_one_core_plans_for_one_thread(
    isa: str, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSEDRNN_CPU_ISA", isa)
    digest, threads = run_program(when)
    assert threads == "1 thread"
    assert digest == run_program()[0]


# Where steps have rows of their own, a thread may have one or two of a step that has many.
SIZES_AND_VARIANTS = [
    *(((40, 5, 64, hidden_size), "plain") for hidden_size in (43, 64, 128)),
    *(
        ((30, batch_size, 24, hidden_size), variant)
        for batch_size in (17, 24, 50)
        for hidden_size in (43, 64)
        for variant in ("packed", "lengths", "lengths_zeros", "packed_reset", "everything")
    ),
]


@pytest.mark.parametrize(("sizes", "variant"), SIZES_AND_VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("isa", OPS.supported_cpu_isas())
def test_no_bit_depends_on_the_number_of_threads(
    isa: str, dtype: torch.dtype, sizes: tuple[int, int, int, int], variant: str, two_threads: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Threads end within the tiles of a product, whose rows must be multiplied as by one thread."""
    if isa == "generic" and variant != "plain":
        pytest.skip("its large products are torch's, which depend on it")
    monkeypatch.setenv("FUSEDRNN_CPU_ISA", isa)
    options = VARIANTS[variant] | {"bidirectional": False}  # both at once add up in their own order
    for cell in CELLS:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            torch.manual_seed(3)
            found.append(operator(make_layer(cell, dtype, sizes=sizes, **options)))
        for name, result in found[0].items():
            for other in found[1:]:
                assert torch.equal(result, other[name]), (cell, name)


@linux
@pytest.mark.parametrize(("when", "cores"), [("", CORES), ("pinned later", 1)])
def test_torch_computes_products_on_no_more_threads_than_cores(when: str, cores: int) -> None:
    """Else each of its barriers waits a time slice for a thread that has no core."""
    [created] = run_program(when, program=COUNT_THREADS)
    assert int(created) <= cores  # the caller's own, and what joins it


def test_a_busy_machine_changes_no_bit_and_nothing_hangs() -> None:
    expected = run_program()
    with busy_processes(CORES + 1):
        assert run_program() == expected


def test_calls_of_python_threads_run_at_the_same_time(two_threads: None) -> None:
    """While one layer runs in a thread, others begin and end in this one: no lock is held."""
    torch.set_num_threads(1)
    long = make_layer("lstm", torch.float32, sizes=(3000, 16, 128, 256))
    short = make_layer("gru", torch.float32, sizes=(2, 1, 8, 8))
    period = []

    def run_long() -> None:
        start = time.monotonic()
        long.run(ops.layer_forward)
        period.extend((start, time.monotonic()))

    thread = threading.Thread(target=run_long)
    calls = []
    thread.start()
    while thread.is_alive():
        start = time.monotonic()
        short.run(ops.layer_forward)
        calls.append((start, time.monotonic()))
    thread.join()
    start, end = period
    # Calls that begin so late would all wait for the end behind a lock that the long one took.
    late = [call for call in calls if call[0] > (start + end) / 2 and call[1] < end]
    assert late
