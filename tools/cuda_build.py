"""Builds the extension with its CUDA kernels, and checks what can be checked without a GPU.

    make cuda-build

Builds into build/cuda with the torch of the running interpreter, imports the result, checks that
every operator has a CUDA implementation, prints each kernel's registers and stack, and compares the
planner's table of instructions with the machine code. The status is 1 where something is missing, a
kernel spills, or the table is off by more than a fifth.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import kernel_costs
import kernel_resources

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "build" / "cuda" / "lib"
KEYS = (
    *("CPU", "CUDA", "Autograd", "AutocastCUDA"),
    *("CompositeExplicitAutograd", "CompositeImplicitAutograd"),
)
# Operators on tensors must have kernels for these; the others only an implementation.
NEEDED = {
    "fusedrnn::layer_forward": ("CPU", "CUDA", "Autograd", "AutocastCUDA"),
    "fusedrnn::layer_backward": ("CPU", "CUDA", "Autograd"),
}


def build() -> None:
    folders = ["--build-lib", str(LIBRARY)]
    objects = ["--build-temp", str(ROOT / "build" / "cuda" / "objects")]
    command = [sys.executable, "setup.py", "-q", "build_py", *folders]
    command += ["build_ext", *folders, *objects]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"FUSEDRNN_CUDA": "1"}, check=True)


def check_operators() -> list[str]:
    """Prints which operator has a kernel for which dispatch key; returns what is missing."""
    import torch

    sys.path.insert(0, str(LIBRARY))
    import fusedrnn
    from fusedrnn import _library

    assert _library.available, _library.reason
    print(
        f"imported fusedrnn {fusedrnn.__version__} from {_library.path}, torch {torch.__version__}"
    )
    print(f"kernels for compute capabilities {torch.ops.fusedrnn.cuda_architectures()}")
    print(f"GPU visible: {'yes' if torch.cuda.is_available() else 'no'}\n")
    names = sorted(n for n in torch._C._dispatch_get_all_op_names() if n.startswith("fusedrnn::"))
    width = max(map(len, names))
    print(f"{'operator':<{width}}  {'  '.join(KEYS)}")
    missing = []
    for name in names:
        has = {key: torch._C._dispatch_has_kernel_for_dispatch_key(name, key) for key in KEYS}
        cells = (f"{'yes' if has[key] else '-':<{len(key)}}" for key in KEYS)
        print(f"{name:<{width}}  {'  '.join(cells)}".rstrip())
        missing += [f"{name}: no {key} kernel" for key in NEEDED.get(name, ()) if not has[key]]
        if not torch._C._dispatch_has_kernel(name):
            missing.append(f"{name}: no implementation")
    return missing


def main() -> int:
    start = time.perf_counter()
    build()
    print(f"built in {time.perf_counter() - start:.0f} s\n")
    missing = check_operators()
    print()
    kernels = kernel_resources.read(LIBRARY / "fusedrnn" / "_C.so")
    print(kernel_resources.render(kernels))
    spilled = [f"{k.name} spills on {k.arch}" for k in kernel_resources.spilled(kernels)]
    if any(kernel.arch == kernel_costs.ARCHITECTURE for kernel in kernels):
        costs = kernel_costs.read(LIBRARY / "fusedrnn" / "_C.so")
        missing += kernel_costs.differences(kernel_costs.stored(), costs)
        print(f"{len(costs)} kernels counted, as the planner does")
    failures = missing + spilled + ([] if kernels else ["there are no CUDA kernels"])
    print(f"\n{len(kernels)} compiled kernels, {len(spilled)} that spill")
    print("\n".join(failures) or "cuda-build: passed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
