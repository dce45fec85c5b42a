"""The worked example of csrc/README.md: a patch makes a cell, and nothing else need be known."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from processes import run_process

ROOT = Path(__file__).resolve().parent.parent
PATCH = ROOT / "examples" / "new_cell" / "ugrnn.patch"

# In the patched tree: the new class against its reference, and against itself.
TRAIN = """
import torch
import fusedrnn
from fusedrnn import reference
from fusedrnn._weights import LayerWeights
from fusedrnn.modules.ugrnn import UGRNN

torch.manual_seed(1)
layer = UGRNN(3, 5, dtype=torch.float64)
assert list(layer.state_dict()) == ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"]
assert layer.weight_hh_l0.shape == (10, 5)
input, wanted = torch.randn(2, 9, 4, 3, dtype=torch.float64)[0], torch.randn(9, 4, 5).double()
lengths, reset = torch.tensor([9, 4, 0, 7]), torch.rand(9, 4) < 0.2

def by_kernel():
    return layer(input, lengths=lengths, reset=reset)[0]

def by_reference():
    weights = LayerWeights(*layer.parameters())
    return reference.layer_forward(
        "ugrnn", input, None, None, weights, lengths=lengths, reset=reset
    )[0]

def train(forward):
    layer.load_state_dict(start)
    optimizer = torch.optim.SGD(layer.parameters(), 0.5)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (forward() - wanted.tanh()).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses

start = {name: value.clone() for name, value in layer.state_dict().items()}
ours, theirs = train(by_kernel), train(by_reference)
assert max(abs(a - b) for a, b in zip(ours, theirs)) < 1e-12, (ours, theirs)
assert ours[-1] < 0.9 * ours[0], ours
*_, gates = layer(input, return_gates=True)
assert type(gates).__name__ == "UgrnnGates" and gates._fields == ("u", "n")
plan = str(fusedrnn.explain(layer, input))
assert "persistent" in plan, plan
inputs = torch.randn(6, 2, 1, 3, dtype=torch.float64)
jacobian = torch.vmap(torch.func.jacrev(lambda x: layer(x)[0]))(inputs)
assert jacobian.shape == (6, 2, 1, 5, 2, 1, 3)
assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], inputs[0].requires_grad_())
assert torch.compile(layer, fullgraph=True, backend="aot_eager")(inputs[0])[0].shape == (2, 1, 5)
print("trained", ours[0], ours[-1])
"""


@pytest.mark.timeout(1500)
def test_the_worked_example_is_a_cell(tmp_path: Path, compiled_part: None) -> None:
    tree = tmp_path / "tree"
    for folder in ("csrc", "fusedrnn", "tools"):
        ignored = shutil.ignore_patterns("__pycache__", "_C.*")
        shutil.copytree(ROOT / folder, tree / folder, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, tree / name)
    built = sorted((ROOT / "build").glob("objects-*"))
    for objects in built:  # what has not changed is not compiled again
        shutil.copytree(objects, tree / "build" / objects.name)
    for command in (
        ["git", "apply", str(PATCH)],
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        [sys.executable, "-c", TRAIN],
    ):
        env = os.environ | {"FUSEDRNN_CUDA": "0", "PYTHONPATH": str(tree)}
        done = run_process(command, check=True, limit=1400, cwd=tree, env=env)
    assert done.stdout.splitlines()[-1].startswith("trained ")


def test_the_worked_example_touches_what_the_guide_says() -> None:
    touched = [line.split()[-1] for line in PATCH.read_text().splitlines() if line[:6] == "+++ b/"]
    assert [path.removeprefix("b/") for path in touched] == [
        "csrc/cells/registry.h",
        "csrc/cells/ugrnn.h",
        "fusedrnn/modules/ugrnn.py",
        "fusedrnn/reference.py",
    ]
    guide = (ROOT / "csrc" / "README.md").read_text()
    assert "examples/new_cell/ugrnn.patch" in guide
    for path in touched:
        assert path.removeprefix("b/").replace("ugrnn", "<name>") in guide, path


@pytest.mark.parametrize(
    ("member", "value", "reason"),
    [
        ("int kStates", "3", "schedules hand on h, or h and c"),
        ("bool kProjects", "true", "projected h has another width than a unit's"),
        ("CellNeeds kNeeds", "CellNeeds::kRowStatistics", "no schedule provides statistics of a"),
        ("CellNeeds kNeeds", "CellNeeds::kMask", "no schedule provides statistics of a row, or a"),
    ],
)
def test_what_no_schedule_provides_does_not_compile(
    member: str, value: str, reason: str, tmp_path: Path
) -> None:
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    header = tmp_path / "csrc" / "cells" / "gru.h"
    before, changed = header.read_text(), re.compile(rf"(constexpr {member}) = [\w:]+;")
    assert len(changed.findall(before)) == 1
    for text, compiles in ((before, True), (changed.sub(rf"\1 = {value};", before), False)):
        header.write_text(text)
        command = [compiler, "-std=c++17", "-fsyntax-only", "-xc++", "-DFUSEDRNN_ISA=generic"]
        command += [f"-I{tmp_path / 'csrc'}", str(tmp_path / "csrc" / "cells" / "registry.h")]
        done = run_process(command)
        assert (done.returncode == 0) == compiles, done.stderr[-2000:]
    assert reason in done.stderr
