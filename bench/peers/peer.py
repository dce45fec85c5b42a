"""What the peers have in common: which cases they can run, and that they may be missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util

from bench.cases import Case


class Peer:
    """A library that runs on the CPU; `packages` are what it needs, its own first."""

    name: str
    packages: tuple[str, ...]
    dtypes: tuple[str, ...] = ("float32",)
    trains = False
    follows_isa = True

    def version(self) -> str:
        return importlib.metadata.version(self.packages[0])

    def absent(self, case: Case) -> str:
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                return f"{package} is not installed"
        if case.device != "cpu":
            return "timed on the CPU only"
        if case.mode == "train" and not self.trains:
            return "infers only"
        if case.dtype not in self.dtypes:
            return f"timed in {' and '.join(self.dtypes)} only"
        return ""

    def set_up(self, case: Case) -> None:
        """Nothing beyond `bench.measure.set_up`."""

    def plan(self, case: Case) -> str | None:
        return None
