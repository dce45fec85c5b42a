"""What tests found, as the lines that are printed when they have ended.

A test tells it with pytest's `record_property`, which reaches the terminal from the workers of
pytest-xdist as well:

    property     (device, text)
    derivatives  (device, layer, option, the checks that passed), one of a table's cells
    losses       (how two processes share the work, cell, losses of one process, of two)
    quantized    (cell, steps, errors by how weights are stored)
    conformance  cases of torch's module inputs, by kind
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

# The checks of a derivative, each a character of a table's cell.
CHECKS = {
    "g": "gradcheck",
    "b": "its check_batched_grad",
    "f": "its check_forward_ad",
    "G": "gradgradcheck",
    "B": "its check_batched_grad",
}

CONFORMANCE_KINDS = (
    *("forward", "gradients", "gradcheck", "gradgradcheck", "pickling", "non-contiguous"),
    *("errors", "repr", "placement"),
)


def lines(recorded: Iterable[tuple[str, Any]]) -> list[str]:
    """Of the properties of every test that passed."""
    by_name: dict[str, list[Any]] = {}
    for name, value in recorded:
        by_name.setdefault(name, []).append(value)
    return [
        *(f"property ({device}): {text}" for device, text in by_name.get("property", ())),
        *_derivatives(by_name.get("derivatives", ())),
        *_losses(by_name.get("losses", ())),
        *_conformance(by_name.get("conformance", ())),
        *(
            f"quantized {cell}, steps {steps}, error of the output: {errors}"
            for cell, steps, errors in by_name.get("quantized", ())
        ),
    ]


def _derivatives(recorded: Iterable[tuple[str, str, str, str]]) -> list[str]:
    """A table with a row for each layer and a column for each option."""
    table: dict[tuple[str, str], defaultdict[str, str]] = {}
    for device, layer, option, checks in recorded:
        row = table.setdefault((device, layer), defaultdict(str))
        row[option] += checks
    if not table:
        return []
    options = list(dict.fromkeys(option for row in table.values() for option in row))
    head = ["derivatives", *options]
    rows = [
        [f"{layer} ({device})", *("".join(c for c in CHECKS if c in row[o]) for o in options)]
        for (device, layer), row in table.items()
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    passed = "passed: " + ", ".join(f"{key} {name}" for key, name in CHECKS.items())
    cells = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]
    return [*cells, passed]


def _conformance(recorded: Iterable[dict[str, int]]) -> list[str]:
    counts = sum(map(Counter, recorded), Counter())
    if not counts:
        return []
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
    return [f"conformance: {counts.total()} cases of torch's module inputs ({kinds})"]


def _losses(recorded: Iterable[tuple[str, str, list[float], list[float]]]) -> list[str]:
    found = []
    for how, cell, one, two in recorded:
        for processes, losses in (("one process", one), ("two processes", two)):
            numbers = " ".join(f"{loss:.7f}" for loss in losses)
            found.append(f"losses, {how} {cell}, {processes}: {numbers}")
    return found
