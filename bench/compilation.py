"""What torch.compile makes of a layer: graphs, graph breaks, recompilations and seconds.

A case is compiled with torch's default settings in a process of its own, with inductor's caches
off, and called with three pairs of length and batch. `bench/README.md` has the fields.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import fusedrnn
from bench.measure import TOLERANCES
from bench.report import align
from bench.store import Record
from bench.workers import WrongResultError, isolated

# torch.nn's layers are refused by torch.compile, and run uncompiled after a graph break, unless
# it is told to take them apart.
TAKEN_APART = "torch.nn, allow_rnn"
PROVIDERS = ("torch.nn", TAKEN_APART, "fusedrnn")
CELLS = ("LSTM", "GRU")
MODES = ("infer", "train")
SEQ_LENS = (8, 64, 512)
REPEATS = 3
ENOUGH_SECONDS = 20  # after so long no call and no repetition is begun


@dataclasses.dataclass(frozen=True)
class CompileCase:
    """One layer, and the sizes of the first call; see `calls`."""

    cell: str
    mode: str
    seq_len: int
    batch_size: int = 8
    input_size: int = 64
    hidden_size: int = 64
    threads: int = 1

    @property
    def name(self) -> str:
        return f"{self.cell}-{self.mode}-T{self.seq_len}"

    def calls(self) -> list[tuple[int, int]]:
        """(seq_len, batch_size) of the three calls."""
        return [
            (self.seq_len, self.batch_size),
            (self.seq_len + 3, self.batch_size + 1),
            (2 * self.seq_len, self.batch_size + 5),
        ]


def select(
    cells: Iterable[str], modes: Iterable[str], seq_lens: Sequence[int]
) -> list[CompileCase]:
    return [CompileCase(*key) for key in itertools.product(cells, modes, seq_lens)]


def measure(case: CompileCase, provider: str, limit_seconds: float) -> dict[str, Any]:
    """One record; with ``status: "failed"`` and the reason if it fails or takes too long."""
    try:
        return {"provider": provider, "status": "ok"} | isolated(
            compile_case, case, provider, timeout_seconds=limit_seconds
        )
    except RuntimeError as error:
        message = str(error).strip()
        return {"provider": provider, "status": "failed", "message": message}


def compile_case(case: CompileCase, provider: str) -> dict[str, Any]:
    """Graphs, breaks, recompilations and seconds; the results are compared with eager ones."""
    torch.set_num_threads(case.threads)
    torch._inductor.config.compile_threads = 1
    torch._dynamo.config.allow_rnn = provider == TAKEN_APART
    namespace = fusedrnn if provider == "fusedrnn" else nn
    torch.manual_seed(0)
    module = getattr(namespace, case.cell)(case.input_size, case.hidden_size)
    module.train(case.mode == "train")
    inputs = [torch.randn(*sizes, case.input_size) for sizes in case.calls()]
    expected = [_call(module, input, case.mode) for input in inputs]

    _import_the_compiler()
    torch._inductor.config.force_disable_caches = True
    rounds, start = [], time.perf_counter()
    while len(rounds) < REPEATS and (not rounds or time.perf_counter() - start < ENOUGH_SECONDS):
        rounds.append(_compile_once(module, inputs, expected, case.mode))
    seconds = zip(*(found["seconds"] for found in rounds))
    return rounds[-1] | {"repeats": len(rounds), "seconds": [*map(statistics.median, seconds)]}


def table(records: Iterable[Record]) -> str:
    """One row a case and provider."""
    head = ["cell", "mode", "T", "provider", "graphs", "breaks", "recompiled"]
    head += ["first s", "second s", "third s"]
    rows, failures = [], []
    for record in records:
        case = record["case"]
        key = [case["cell"], case["mode"], str(case["seq_len"]), record["provider"]]
        if record["status"] != "ok":
            rows.append([*key, "FAILED", *[""] * (len(head) - len(key) - 1)])
            failures.append(f"{' '.join(key)}: {record['message'].splitlines()[-1]}")
            continue
        counts = [record["graphs"], record["breaks"], record["recompilations"]]
        seconds = [f"{value:.3f}" for value in record["seconds"]]
        seconds += ["not run"] * (3 - len(seconds))
        rows.append([*key, *("" if count is None else str(count) for count in counts), *seconds])
    return "\n".join([align([head, *rows], left=(0, 1, 3)), *failures])


def _compile_once(
    module: nn.Module, inputs: list[Tensor], expected: list[list[Tensor]], mode: str
) -> dict[str, Any]:
    counters = torch._dynamo.utils.counters
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(module)
    seconds, graphs = [], []
    for input, wanted in zip(inputs, expected):
        start = time.perf_counter()
        results = _call(compiled, input, mode)
        seconds.append(time.perf_counter() - start)
        graphs.append(counters["stats"]["unique_graphs"])
        _check(results, wanted)
        if sum(seconds) > ENOUGH_SECONDS:
            break
    return {
        "graphs": graphs[0],
        "breaks": sum(counters["graph_break"].values()),
        "recompilations": graphs[-1] - graphs[0] if len(graphs) == len(inputs) else None,
        "seconds": seconds,
    }


def _call(module: nn.Module, input: Tensor, mode: str) -> list[Tensor]:
    """The output, and after training the gradients of the input and of every parameter."""
    if mode == "infer":
        with torch.no_grad():
            return [module(input)[0]]
    leaf = input.clone().requires_grad_()
    output = module(leaf)[0]
    return [output.detach(), *torch.autograd.grad(output.sum(), [leaf, *module.parameters()])]


def _check(results: list[Tensor], expected: list[Tensor]) -> None:
    for result, wanted in zip(results, expected, strict=True):
        error = float((result - wanted).abs().max() / wanted.abs().max())
        if not error <= TOLERANCES["float32"]:
            raise WrongResultError(f"compiled and eager results differ by {error:.1e}")


def _import_the_compiler() -> None:
    """Compiles something else first: what a process does once is no layer's."""
    linear = nn.Linear(3, 3)
    for mode in MODES:
        compiled = torch.compile(nn.Sequential(linear, nn.Tanh()))
        with torch.set_grad_enabled(mode == "train"):
            output = compiled(torch.randn(2, 3))
        if mode == "train":
            output.sum().backward()
