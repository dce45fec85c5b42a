"""A machine that `fusedrnn.explain` is asked about."""

from __future__ import annotations

import dataclasses

import torch

__all__ = ["Machine"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """A CPU as the planner sees it, for `fusedrnn.explain`; what is left out is as it is here.

    Args:
        cores: threads that a layer may have, each on a core of its own.
        sockets: how many sockets the cores are on, as many on each.
        isa: the instruction set of the kernels, ``"generic"``, ``"avx2"`` or ``"avx512"``; it need
            not be one that runs here.
        l1: bytes of the data cache of a core.
        l2: bytes of the second cache of a core.
        l3: bytes of the last cache, which cores share.

    Raises:
        ValueError: `sockets` does not divide `cores`.

    Examples:
        >>> import fusedrnn
        >>> epyc = fusedrnn.Machine(
        ...     cores=64, sockets=2, isa="avx2", l1=32 << 10, l2=512 << 10, l3=32 << 20
        ... )
    """

    cores: int | None = None
    sockets: int | None = None
    isa: str | None = None
    l1: int | None = None
    l2: int | None = None
    l3: int | None = None

    def __post_init__(self) -> None:
        if self.sockets is None:
            return
        if self.cores is None or self.sockets < 1 or self.cores % self.sockets != 0:
            raise ValueError(
                f"sockets: expected a divisor of cores, got {self.sockets} for {self.cores} cores; "
                "give both"
            )

    def _numbers(self) -> list[int]:
        """As the operator takes them: what is not given is that of the running machine."""
        threads, socket_cores, *caches = torch.ops.fusedrnn.describe_cpu()
        if self.cores is not None:
            threads = self.cores
            several = self.sockets is not None and self.sockets > 1
            socket_cores = threads // self.sockets if several else 0
        given = (self.l1, self.l2, self.l3)
        found = [here if size is None else size for here, size in zip(caches, given)]
        return [threads, socket_cores, *found]

    def _isa(self) -> str:
        return torch.ops.fusedrnn.cpu_isa() if self.isa is None else self.isa

    def __str__(self) -> str:
        threads, socket_cores, *caches = self._numbers()
        sockets = f" on {threads // socket_cores} sockets" if socket_cores else ""
        cores = f"{threads} core{'s'[: threads > 1]}{sockets}"
        return f"{cores}, {self._isa()}, {describe_caches(caches)}"


def describe_caches(sizes: list[int]) -> str:
    """The bytes of L1, L2 and L3, to read."""
    return ", ".join(f"{name} {_size(size)}" for name, size in zip(("L1", "L2", "L3"), sizes))


def _size(size: int) -> str:
    return f"{size / 1024:.4g} KiB" if size < 1 << 20 else f"{size / (1 << 20):.4g} MiB"
