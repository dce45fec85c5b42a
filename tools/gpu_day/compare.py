"""Microseconds a step of torch.nn (cuDNN) and of each schedule of fusedrnn on the same cases.

    python tools/gpu_day/compare.py --seconds 70

One JSON line a case and way, as it is measured: `infer_us` and `train_us` are medians over rounds
in which forward, or forward and backward, is timed by CUDA events; `error` and `grad_error` are the
largest differences from torch.nn in float64, of the output and of the input's gradient, so that
both libraries are judged alike. What a schedule refuses is a line too. The most wanted cases come
first, and it ends when its time is up.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

import fusedrnn


class Case(NamedTuple):
    cell: str
    batch_size: int
    seq_len: int
    input_size: int
    hidden_size: int
    dtype: str


CASES = [
    Case("LSTM", 16, 512, 768, 768, "bfloat16"),
    Case("LSTM", 16, 512, 768, 768, "float16"),
    Case("GRU", 32, 256, 512, 512, "bfloat16"),
    Case("LSTM", 64, 256, 256, 256, "float32"),
    # More than one chunk: gradients in 16 bits are added up by products that widen.
    Case("LSTM", 64, 300, 1024, 1024, "bfloat16"),
    Case("LSTM", 16, 256, 128, 128, "float16"),
    Case("GRU", 16, 256, 256, 256, "float16"),
    Case("LSTM", 64, 256, 512, 512, "float16"),
    Case("LSTM", 32, 256, 1024, 1024, "bfloat16"),
    Case("LSTM", 256, 64, 512, 512, "float16"),
    Case("LSTM", 8, 128, 1536, 1536, "float16"),
    Case("GRU", 64, 256, 64, 64, "float32"),
    Case("LSTM", 16, 512, 768, 768, "float32"),
]
# What is forced of fusedrnn; None is torch.nn.
WAYS: dict[str, dict[str, str] | None] = {
    "torch.nn": None,
    "planned": {},
    "per_step/fused, graph": {"FUSEDRNN_SCHEDULE": "per_step/fused", "FUSEDRNN_CUDA_GRAPH": "1"},
    "per_step/fused, launches": {"FUSEDRNN_SCHEDULE": "per_step/fused", "FUSEDRNN_CUDA_GRAPH": "0"},
    "per_step/product": {"FUSEDRNN_SCHEDULE": "per_step/product"},
    "single_block": {"FUSEDRNN_SCHEDULE": "single_block"},
}


def force(variables: dict[str, str]) -> None:
    for name in ("FUSEDRNN_SCHEDULE", "FUSEDRNN_CUDA_GRAPH"):
        os.environ.pop(name, None)
    os.environ.update(variables)
    fusedrnn.reload_environment()


def median_us(run: Callable[[], Any], steps: int, rounds: int = 7, warmup: int = 3) -> float:
    for _ in range(warmup):
        run()
    samples = []
    for _ in range(rounds):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        stop.record()
        stop.synchronize()
        samples.append(start.elapsed_time(stop) * 1e3 / steps)
    return round(statistics.median(samples), 3)


class Subject:
    """One case: both libraries' modules with the same weights, their input, and the truth."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        dtype = getattr(torch, case.dtype)
        sizes = (case.input_size, case.hidden_size)
        self.theirs = getattr(torch.nn, case.cell)(*sizes).cuda().to(dtype)
        self.ours = getattr(fusedrnn, case.cell)(*sizes).cuda().to(dtype)
        self.ours.load_state_dict(self.theirs.state_dict())
        shape = (case.seq_len, case.batch_size)
        self.input = torch.randn(*shape, case.input_size, device="cuda", dtype=dtype)
        self.grad = torch.randn(*shape, case.hidden_size, device="cuda", dtype=dtype)
        exact = getattr(torch.nn, case.cell)(*sizes).cuda().double()
        exact.load_state_dict({k: v.double() for k, v in self.theirs.state_dict().items()})
        self.truth = self.train(exact, self.input.double(), self.grad.double())

    @staticmethod
    def train(
        module: torch.nn.Module, input: torch.Tensor, grad: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        module.zero_grad(set_to_none=True)
        leaf = input.detach().requires_grad_()
        output = module(leaf)[0]
        output.backward(grad)
        assert leaf.grad is not None
        return output.detach(), leaf.grad

    def measure(self, module: torch.nn.Module, case: Case) -> dict[str, Any]:
        with torch.inference_mode():
            infer_us = median_us(lambda: module(self.input), case.seq_len)
        found = self.train(module, self.input, self.grad)
        errors = [(a.double() - b).abs().max().item() for a, b in zip(found, self.truth)]
        train_us = median_us(lambda: self.train(module, self.input, self.grad), case.seq_len)
        return {
            "infer_us": infer_us,
            "train_us": train_us,
            "error": float(f"{errors[0]:.3g}"),
            "grad_error": float(f"{errors[1]:.3g}"),
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=70, help="after which it ends (70)")
    end = time.monotonic() + parser.parse_args().seconds
    machine = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    machine |= {"cudnn": torch.backends.cudnn.version(), "fusedrnn": fusedrnn.__version__}
    print(json.dumps(machine), flush=True)
    # Strict float32 in both.
    torch.backends.cudnn.allow_tf32 = False
    for case in CASES:
        if time.monotonic() > end:
            break
        subject = Subject(case)
        for way, forced in WAYS.items():
            if time.monotonic() > end:
                break
            row: dict[str, Any] = {**case._asdict(), "way": way}
            try:
                force(forced or {})
                row |= subject.measure(subject.theirs if forced is None else subject.ours, case)
                if forced is not None:
                    row["plan"] = torch.ops.fusedrnn.last_cuda_plan()
            except RuntimeError as error:
                row["refused"] = str(error).splitlines()[0][:160]
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
