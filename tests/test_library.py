"""Saved programs run where only the operators are loaded, without this package."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import MODULES, layers
from processes import run_process
from torch import Tensor, nn
from torch.export import Dim

import fusedrnn
from fusedrnn import _library

pytestmark = pytest.mark.usefixtures("compiled_part")

ROOT = Path(fusedrnn.__file__).parent.parent

# What a program does to have the operators; the last is what a C++ program's dlopen does.
WAYS = {
    "import fusedrnn": "import fusedrnn",
    "load_library": "torch.ops.load_library(path)",
    "dlopen": "import ctypes; ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)",
}
FORMATS = {
    "torch.export": "torch.export.load(program).module()",
    "AOTInductor": "torch._inductor.aoti_load_package(program)",
    "torch.jit": "torch.jit.load(program)",
}
RUN = """
import sys
import torch

path, program, data = sys.argv[1:]
{way}
model = {load}
for input, expected in torch.load(data):
    with torch.no_grad():
        torch.testing.assert_close(model(input), expected, rtol=0, atol=0)
print("fusedrnn" in sys.modules)
"""


class Model(nn.Module):
    """A stack of every cell."""

    def __init__(self) -> None:
        super().__init__()
        options = {"batch_first": True, "bidirectional": True}
        self.stacks = nn.ModuleList(
            [layers(fusedrnn, cell, 6, 3, 2, **options) for cell in MODULES]
        )

    def forward(self, input: Tensor) -> Tensor:
        for stack in self.stacks:
            input = stack(input)[0]
        return input


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a program in each format, and with inputs and results."""
    folder = tmp_path_factory.mktemp("programs")
    model, input = Model().eval().requires_grad_(False), torch.randn(2, 5, 6)
    dims = {0: Dim("batch_size", min=1, max=64), 1: Dim("seq_len", min=1, max=64)}
    exported = torch.export.export(model, (input,), dynamic_shapes={"input": dims})
    torch.export.save(exported, folder / "torch.export.pt2")
    torch._inductor.aoti_compile_and_package(exported, package_path=str(folder / "AOTInductor.pt2"))
    torch.jit.save(torch.jit.trace(model, (input,)), folder / "torch.jit.pt2")
    inputs = [torch.randn(size) for size in ((2, 5, 6), (7, 11, 6), (1, 1, 6))]
    torch.save([(each, model(each)) for each in inputs], folder / "data.pt")
    return folder


def _run(programs: Path, way: str, name: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    code = RUN.format(way=way, load=FORMATS[name])
    arguments = [str(fusedrnn.library_path()), str(programs / f"{name}.pt2")]
    return run_process(
        [sys.executable, "-W", "ignore", "-c", code, *arguments, str(programs / "data.pt")], cwd=cwd
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("way", WAYS)
def test_program_runs_in_a_fresh_process(
    way: str, name: str, programs: Path, tmp_path: Path
) -> None:
    imports = way == "import fusedrnn"
    done = _run(programs, WAYS[way], name, ROOT if imports else tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(imports)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMATS)
def test_program_is_refused_without_the_operators(
    name: str, programs: Path, tmp_path: Path
) -> None:
    """As the documentation says, so that a reader who meets it finds it there."""
    done = _run(programs, "", name, tmp_path)
    assert done.returncode != 0
    texts = {
        "torch.export": "We ran into an error when deserializing the saved file",
        "AOTInductor": "Could not find schema for fusedrnn::layer_forward",
        "torch.jit": "Unknown builtin op: fusedrnn::layer_forward",
    }
    assert texts[name] in done.stderr
    page = (ROOT / "docs" / "tasks" / "export.md").read_text(encoding="utf-8")
    assert texts[name] in " ".join(page.split())


def test_library_path_is_the_loaded_library() -> None:
    assert fusedrnn.library_path().is_file()
    torch.ops.load_library(fusedrnn.library_path())  # once more changes nothing


def test_library_path_says_why_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_library, "path", None)
    monkeypatch.setattr(_library, "reason", "no such file")
    with pytest.raises(RuntimeError, match="no such file.*pip install"):
        fusedrnn.library_path()
