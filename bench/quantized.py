"""A streaming step on weights in fewer bytes, beside float32 and torch's int8, and their errors.

A case times every contestant in one process, interleaved, after each has streamed through a
sequence whose outputs were compared with torch.nn's in float64.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

import fusedrnn
from bench import environment, timing
from bench.cases import GATES, Case, Shape
from bench.measure import TOLERANCES, set_up
from bench.problem import PreparedStream, Problem, make_module
from bench.providers import BASELINE, ModuleProvider
from bench.report import align, others_text
from bench.store import Record
from bench.timing import Effort, Summary
from bench.workers import WrongResultError, isolated

CELLS = ("LSTM", "GRU")
HIDDEN_SIZES = (512, 1024)
STREAMED_STEPS = 100  # whose outputs are compared


def _quantize_dynamic(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated in favour of torchao, which has no LSTM
        quantized = torch.ao.quantization.quantize_dynamic(
            nn.Sequential(module), {type(module)}, dtype=torch.qint8
        )
    return quantized[0]


def _replace(module: nn.Module) -> nn.Module:
    return fusedrnn.replace(module).model


@dataclasses.dataclass(frozen=True)
class Contestant:
    """What it makes of torch.nn's module, and how it stores an element of a weight."""

    name: str
    make: Callable[[nn.Module], nn.Module]
    dtype: str
    provider: str = "fusedrnn"

    @property
    def largest_error(self) -> float:
        """More than this, relative to the largest element, is wrong."""
        return TOLERANCES["bfloat16" if self.dtype == "int8" else self.dtype]


REFERENCE = "fusedrnn float32"
CONTESTANTS = (
    Contestant("torch.nn float32", lambda module: module, "float32", BASELINE),
    Contestant("torch.ao int8", _quantize_dynamic, "int8", BASELINE),
    Contestant(REFERENCE, _replace, "float32"),
    *(
        Contestant(
            f"fusedrnn {dtype}",
            lambda module, dtype=dtype: fusedrnn.quantize(module, getattr(torch, dtype)),
            dtype,
        )
        for dtype in ("bfloat16", "float16", "int8")
    ),
)


def select(cells: Iterable[str], hidden_sizes: Iterable[int], threads: Iterable[int]) -> list[Case]:
    return [
        Case(cell, Shape(1, 1, width, width), "infer", "float32", count, form="step")
        for count, cell, width in itertools.product(threads, cells, hidden_sizes)
    ]


def measure(case: Case, effort: Effort) -> list[dict[str, Any]]:
    """One record a contestant; of status "failed" with the reason if the case fails."""
    try:
        return isolated(_time_in_process, case, effort)
    except RuntimeError as error:
        return [
            {"provider": contestant.name, "status": "failed", "message": str(error)}
            for contestant in CONTESTANTS
        ]


def time_case(case: Case, effort: Effort) -> list[dict[str, Any]]:
    """Check, then time; every field that `store.complete` does not add."""
    problem = Problem.draw(case)
    module = make_module(BASELINE, problem).eval()
    module.load_state_dict(problem.weights)
    made = {entry.name: entry.make(copy.deepcopy(module)) for entry in CONTESTANTS}
    generator = torch.Generator().manual_seed(1)
    rows = (STREAMED_STEPS, case.shape.batch_size, case.shape.input_size)
    inputs = torch.randn(rows, generator=generator)
    with torch.no_grad():
        expected = copy.deepcopy(module).double()(inputs.double())[0]
        errors = {
            entry.name: _error(entry, made[entry.name], inputs, expected) for entry in CONTESTANTS
        }
        samplers = {
            name: timing.StepSampler(PreparedStream(entry, problem.input).step)
            for name, entry in made.items()
        }
        busy = environment.BusyElsewhere()
        timings = timing.interleave(samplers, effort)
    other_cores = busy.cores()
    shape = case.shape
    elements = GATES[case.cell] * shape.hidden_size * (shape.input_size + shape.hidden_size)
    reference = timings.samples[REFERENCE]
    return [
        {
            "provider": entry.name,
            "version": ModuleProvider(entry.provider).version(),
            "status": "ok",
            "weight_bytes": elements * getattr(torch, entry.dtype).itemsize,
            "rounds": len(timings.samples[entry.name]),
            "calls": samplers[entry.name].calls,
            "seconds": vars(Summary.of(timings.samples[entry.name])),
            "reference": REFERENCE,
            "speedup": vars(Summary.of(timing.ratios(reference, timings.samples[entry.name]))),
            "error": errors[entry.name],
            "other_cores": other_cores,
        }
        for entry in CONTESTANTS
    ]


def render(records: Iterable[Record]) -> str:
    """One row a case and contestant, ``*`` where it was disturbed; and failures."""
    head = ["threads", "cell", "H", "stored", "KiB", "us", "q20", "q80", "GB/s"]
    head += ["speedup", "q20", "q80", "err", "others"]
    rows, failures = [], []
    for record in records:
        case = record["case"]
        key = [str(case["threads"]), case["cell"], str(case["shape"]["hidden_size"])]
        key.append(record["provider"])
        if record["status"] != "ok":
            rows.append([*key, "FAILED", *[""] * (len(head) - len(key) - 1)])
            failures.append(f"  {' '.join(key)}: {record['message'].strip()}")
            continue
        seconds, speedup = record["seconds"], record["speedup"]
        rows.append(
            [
                *key,
                f"{record['weight_bytes'] / 1024:.0f}",
                *(f"{1e6 * seconds[name]:.1f}" for name in ("median", "q20", "q80")),
                f"{record['weight_bytes'] / seconds['median'] / 1e9:.1f}",
                *(f"{speedup[name]:.2f}" for name in ("median", "q20", "q80")),
                f"{record['error']:.1e}",
                others_text(record),
            ]
        )
    failed = "\n".join([f"failures: {len(failures) or 'none'}", *failures])
    return f"{align([head, *rows], left=(1, 3))}\n\n{failed}"


def _error(entry: Contestant, module: nn.Module, inputs: Tensor, expected: Tensor) -> float:
    """The largest of any step's output, relative to the largest element of all."""
    outputs, state = [], None
    for input in inputs.split(1):
        output, state = module(input, state)
        outputs.append(output)
    error = float((torch.cat(outputs).double() - expected).abs().max() / expected.abs().max())
    if not error <= entry.largest_error:
        raise WrongResultError(
            f"{entry.name}: output differs from float64 by {error:.1e} of its largest element, "
            f"allowed {entry.largest_error:.0e}"
        )
    return error


def _time_in_process(case: Case, effort: Effort) -> list[dict[str, Any]]:
    set_up(case)
    return time_case(case, effort)
