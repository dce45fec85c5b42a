"""Somebody's script with fusedrnn's layers: ``python -m fusedrnn.run train.py ...``.

Runs a script, or with ``-m`` a module, as Python itself would: with its arguments, as __main__,
with its exit status. torch.nn's recurrent classes are patched before its first import, as by
`fusedrnn.patch`, whose report goes to stderr at the end. Processes that it starts anew (not by
fork) are not patched. torch is imported before the script, so that what must be set before that,
as OMP_NUM_THREADS, belongs into the command's environment.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from fusedrnn.patching import record

__all__ = ["main"]

_USAGE = "usage: python -m fusedrnn.run (SCRIPT | -m MODULE) [ARGUMENT ...]"


def main() -> None:
    """Runs what the command line names."""
    by_name = sys.argv[1:2] == ["-m"]
    arguments = sys.argv[1 + by_name :]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, file=sys.stderr)
        raise SystemExit(0 if arguments else 2)
    target = arguments[0]
    sys.argv[:] = arguments
    try:
        with record() as report:
            if by_name:
                runpy.run_module(target, run_name="__main__", alter_sys=True)
            else:
                if not getattr(sys.flags, "safe_path", False):  # of Python 3.11
                    sys.path[0] = str(Path(target).resolve().parent)
                runpy.run_path(target, run_name="__main__")
    finally:
        print(f"fusedrnn.run: {report}", file=sys.stderr)


if __name__ == "__main__":
    main()
