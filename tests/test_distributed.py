"""Two gloo processes train as one: DistributedDataParallel and FSDP2.

The losses are printed when the tests end.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from cases import CELLS, assert_close, layers, tolerance
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import fusedrnn

SIZE = 2
STEPS = 6
BATCH, SEQ_LEN = 8, 6
LIMIT_SECONDS = 120

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="this torch has no gloo"
)


class Regressor(nn.Module):
    def __init__(self, cell: str) -> None:
        super().__init__()
        self.rnn = layers(fusedrnn, cell, 5, 7, 2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(14, 3)

    def forward(self, input: Tensor) -> Tensor:
        return self.out(self.rnn(input)[0])


def train(model: nn.Module, rank: int, size: int) -> list[float]:
    """The loss of each step over the whole batch, of which a process has its share."""
    generator = torch.Generator().manual_seed(2)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(STEPS):
        input = torch.randn(BATCH, SEQ_LEN, 5, generator=generator)
        target = input.cumsum(1)[..., :3]
        share = slice(rank * BATCH // size, (rank + 1) * BATCH // size)
        optimizer.zero_grad()
        loss = (model(input[share]) - target[share]).square().mean()
        loss.backward()
        optimizer.step()
        loss = loss.detach()
        if size > 1:
            dist.all_reduce(loss)
            loss /= size
        losses.append(loss.item())
    return losses


def build(cell: str) -> nn.Module:
    torch.manual_seed(1)
    return Regressor(cell)


def wrap(model: nn.Module, how: str) -> nn.Module:
    if how == "ddp":
        return DistributedDataParallel(model)
    mesh = init_device_mesh("cpu", (SIZE,))
    fully_shard(model.rnn, mesh=mesh)
    fully_shard(model, mesh=mesh)
    shard = model.rnn.weight_hh_l0.to_local()
    assert shard.size(0) < model.rnn.weight_hh_l0.size(0), "the weights are not sharded"
    return model


def work(rank: int, how: str, folder: str) -> None:
    """One process: every cell trained; process 0 keeps the losses."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=SIZE
    )
    losses = {cell: train(wrap(build(cell), how), rank, SIZE) for cell in CELLS}
    if rank == 0:
        torch.save(losses, f"{folder}/losses.pt")
    # No model keeps the group of its mesh alive, and no process leaves while another talks to it.
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


def in_two_processes(how: str, folder: Path) -> dict[str, list[float]]:
    context = mp.spawn(work, (how, str(folder)), nprocs=SIZE, join=False)
    deadline = time.monotonic() + LIMIT_SECONDS
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < deadline, f"no result in {LIMIT_SECONDS} s"
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
    return torch.load(folder / "losses.pt")


@pytest.mark.parametrize("how", ["ddp", "fully_shard"])
def test_two_processes_have_the_losses_of_one(
    how: str, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    two = in_two_processes(how, tmp_path)
    for cell in CELLS:
        one = train(build(cell), rank=0, size=1)
        record_property("losses", (how, cell, one, two[cell]))
        assert len(set(one)) == STEPS, "the losses do not change"
        # Adam divides by the gradient's size, so a step carries on its relative error.
        allowed = 10 * tolerance(torch.float32, 2 * SEQ_LEN * STEPS)
        assert_close(torch.tensor(two[cell]), torch.tensor(one), allowed, f"{cell} losses")
