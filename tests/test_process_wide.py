"""A call changes nothing of the process: its threads, its environment, its forked children."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from processes import run_process

pytestmark = pytest.mark.usefixtures("compiled_part")

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's affinity and fork")

BEGIN = """
import os, signal, sys, threading, time
import torch
import fusedrnn
"""

# More threads than cores, so that every call limits its own; meanwhile other threads begin, and
# set numbers of their own.
THREADS = """
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
torch.set_num_threads(8)
assert torch.get_num_threads() == 8
layer = fusedrnn.LSTM(64, 128)
input = torch.randn(100, 8, 64)
seen, kept = [], []

def begin(idx):
    seen.append(torch.get_num_threads())

def set_own(idx):
    torch.set_num_threads(idx + 2)
    time.sleep(0.001)
    kept.append(torch.get_num_threads() == idx + 2)

def call():
    while not done.is_set():
        layer(input)[0].sum().backward()

done = threading.Event()
caller = threading.Thread(target=call)
caller.start()
for body, count in ((begin, 100), (set_own, 20)):
    for idx in range(count):
        other = threading.Thread(target=body, args=(idx,))
        other.start()
        other.join()
done.set()
caller.join()
assert seen == [8] * 100, seen
assert kept == [True] * 20, kept
"""

# Another thread makes the environment grow, which moves it.
ENVIRONMENT = """
layer = fusedrnn.GRU(2, 2)
cell = fusedrnn.LSTMCell(2, 2)
input = torch.randn(1, 1, 2)
done = threading.Event()

def change():
    idx = 0
    while not done.is_set():
        os.environ[f"NAME_{idx % 5000}"] = "x" * (idx % 97)
        idx += 1

other = threading.Thread(target=change)
other.start()
until = time.monotonic() + 3
while time.monotonic() < until:
    for _ in range(50):
        layer(input)[0].sum().backward()
        cell(input[0])
done.set()
other.join()
"""

# The parent has a pool of threads that are torch's, and none of fusedrnn's. Without gradients and
# with them, a child runs the layers on two threads; torch's own operators might hang in it.
FORK = """
torch.set_num_threads(2)
torch.ones(1 << 22).add_(1)
layer = fusedrnn.MODULE(64, 128, bidirectional=BIDIRECTIONAL)
input = torch.randn(100, 32, 64)
ones = torch.ones(100, 32, 128 * (1 + layer.bidirectional))

def gradients(module):
    module.zero_grad()
    output = module(input)[0]
    output.backward(ones)
    return [output.detach(), *(parameter.grad for parameter in module.parameters())]

def in_child(body):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            body()
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

if PARENT_RUNS:
    gradients(layer)
torch.set_num_threads(1)
expected = [value.clone() for value in gradients(layer)]
torch.set_num_threads(2)

def check():
    explained = str(fusedrnn.explain(layer, input))
    actual = gradients(layer)
    torch.set_num_threads(1)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(actual, expected))
    assert CORES == 1 or "2 threads" in explained or "both at the same time" in explained
    layer(input, lengths=torch.arange(32))

def check_again():
    check()
    torch.set_num_threads(2)
    in_child(check)

in_child(check_again)
gradients(layer)
"""


def run(program: str, **environment: str) -> None:
    path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), *sys.path[1:]])
    run_process(
        [sys.executable, "-W", "ignore", "-c", BEGIN + program],
        env=os.environ | {"PYTHONPATH": path} | environment,
        check=True,
    )


@linux
def test_the_numbers_of_threads_of_others_are_left_alone() -> None:
    run(THREADS)


def test_the_environment_may_change_during_a_call() -> None:
    run(ENVIRONMENT)


@linux
@pytest.mark.parametrize("parent_runs", [False, True], ids=["parent_idle", "parent_ran"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one_way", "both_ways"])
@pytest.mark.parametrize("module", ["RNN", "LSTM", "GRU"])
def test_a_forked_child_runs_on_threads_of_its_own(
    module: str, bidirectional: bool, parent_runs: bool
) -> None:
    program = FORK
    for name, value in (
        *(("MODULE", module), ("BIDIRECTIONAL", bidirectional)),
        *(("PARENT_RUNS", parent_runs), ("CORES", len(os.sched_getaffinity(0)))),
    ):
        program = program.replace(name, str(value))
    run(program)


def test_settings_are_read_at_import_and_when_asked() -> None:
    run(
        """
forced = torch.ops.fusedrnn.cpu_isa()
assert forced == "generic", forced
os.environ["FUSEDRNN_CPU_ISA"] = "sse9"
assert torch.ops.fusedrnn.cpu_isa() == "generic"
fusedrnn.reload_environment()
try:
    torch.ops.fusedrnn.cpu_isa()
except RuntimeError as error:
    assert "sse9" in str(error)
else:
    raise AssertionError("the variable was not read")
del os.environ["FUSEDRNN_CPU_ISA"]
fusedrnn.reload_environment()
assert torch.ops.fusedrnn.cpu_isa() == torch.ops.fusedrnn.supported_cpu_isas()[-1]
""",
        FUSEDRNN_CPU_ISA="generic",
    )
