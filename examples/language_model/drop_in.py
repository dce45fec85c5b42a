"""Runs classifiers.py twice, as it is and with its one import changed, and compares.

python examples/language_model/drop_in.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

SOURCE = Path(__file__).resolve().parent / "classifiers.py"
BEFORE = "from torch.nn import LSTM, RNN"
AFTER = "from fusedrnn import LSTM, RNN"
TOLERANCE = 1e-5


def load(import_line: str) -> ModuleType:
    """The module classifiers.py with its import of LSTM and RNN replaced."""
    source = SOURCE.read_text(encoding="utf-8")
    if source.count(BEFORE) != 1:
        raise ValueError(f"{SOURCE.name}: expected the line {BEFORE!r} once")
    module = ModuleType(SOURCE.stem)
    exec(compile(source.replace(BEFORE, import_line), SOURCE.name, "exec"), module.__dict__)
    return module


def outputs_and_gradients(model: nn.Module, x: Tensor, classes: Tensor) -> dict[str, Tensor]:
    scores = model(x)
    nn.functional.cross_entropy(scores, classes).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {"scores": scores.detach(), **gradients}


def main() -> int:
    torch.manual_seed(0)
    x = torch.randn(16, 28, 28)
    classes = torch.randint(10, (16,))
    print(f"- {BEFORE}\n+ {AFTER}\n")
    original, changed = load(BEFORE), load(AFTER)
    equal = True
    for name in ("BiRNN", "LSTMModel"):
        results = []
        for module in (original, changed):
            torch.manual_seed(1)
            model = getattr(module, name)(input_size=28, hidden_size=128, num_classes=10)
            results.append(outputs_and_gradients(model, x, classes))
        print(model)
        for key, expected in results[0].items():
            difference = (results[1][key] - expected).abs().max().item()
            equal &= difference <= TOLERANCE * max(1.0, expected.abs().max().item())
            print(f"  {key:<26} largest difference {difference:.1e}")
    print("equal" if equal else "DIFFERENT")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
