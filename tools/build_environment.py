"""Who runs this build, and for which torch; used by setup.py and tools/build_backend.py.

torch is no build requirement: the library must be compiled with the torch that it will run with,
and an isolated build would compile it with another. So that torch is looked up from within the
isolation. pip runs the interpreter of the environment that it installs into. uv and
`python -m build` run one in an environment of their own, and what is left of the outer one is the
PATH of an activated environment, the interpreter that made this one, and the folder of the shell.
The version of torch that was found goes into the wheel's requirements, so that one which was the
wrong one is refused by the installer and not met at run time.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import site
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
OLDEST_TORCH = (2, 11)
OLDEST_SETUPTOOLS = 77


def tool() -> str:
    """Who runs the build: "pip", "uv", "build", or "" for setup.py on its own."""
    if "PIP_BUILD_TRACKER" in os.environ:
        return "pip"
    if "UV" in os.environ and "_PYPROJECT_HOOKS_BUILD_BACKEND" not in os.environ:
        return "uv"
    return "build" if "_PYPROJECT_HOOKS_BUILD_BACKEND" in os.environ else ""


def stop(reason: str, command: str) -> NoReturn:
    """Leaves with one sentence that has the command that mends it."""
    sys.exit(f"fusedrnn cannot be built: {reason}; run: {command}")


def again(isolation: bool = True) -> str:
    """The command that builds, for whoever runs this build."""
    if tool() == "build":
        return "python -m build" if isolation else "python -m build --no-isolation"
    here = os.environ.get("PWD", str(ROOT)) == str(ROOT)
    source = "fusedrnn" if (ROOT / "PKG-INFO").exists() else "." if here else str(ROOT)
    option = "" if isolation else "--no-build-isolation "
    return f"{'uv ' if tool() == 'uv' else ''}pip install {option}{source}"


def after_installing(*packages: str) -> str:
    """The command that installs those packages, and builds in the environment that has them."""
    pip = "uv pip" if tool() == "uv" else "pip"
    names = (f"'{name}'" if ">" in name else name for name in packages)
    return f"{pip} install {' '.join(names)} && {again(isolation=False)}"


def isolated() -> bool:
    """Whether this environment was made for the build, so that torch may lie in another."""
    return "builds-v" in Path(sys.prefix).parent.name or "build-env-" in Path(sys.prefix).name


def _settings(prefix: Path) -> dict[str, str]:
    """pyvenv.cfg of a virtual environment."""
    try:
        lines = (prefix / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (x.partition("=") for x in lines)}


def _prefixes() -> Iterator[Path]:
    """Environments in which torch may lie, the likeliest first."""
    here = Path(sys.prefix)
    yield here
    if _settings(here).get("include-system-site-packages") == "true":
        yield Path(sys.base_prefix)
    if not isolated():
        return
    # `python -m build` makes this environment, by the interpreter of the one that it runs in.
    maker = _settings(here).get("command", "").partition(" -m venv")[0]
    if maker:
        yield Path(maker).parent.parent
    if "VIRTUAL_ENV" in os.environ:
        yield Path(os.environ["VIRTUAL_ENV"])
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        if (Path(folder).parent / "pyvenv.cfg").is_file():
            yield Path(folder).parent
    # Where uv looks when none is activated: .venv in the folder it is called from, or above.
    shell = Path(os.environ.get("PWD", ROOT))
    yield from (folder / ".venv" for folder in (shell, *shell.parents))
    if "CONDA_PREFIX" in os.environ:
        yield Path(os.environ["CONDA_PREFIX"])
    yield Path(sys.base_prefix)


def _folders() -> Iterator[str]:
    """Folders of packages that have torch, for this version of Python."""
    for prefix in _prefixes():
        yield from site.getsitepackages([str(prefix)])
    if not isolated():
        yield site.getusersitepackages()


def find_torch() -> ModuleType | None:
    """torch, imported from here or from the environment that this build is for."""
    found = _import()
    for folder in _folders():
        if found is None and Path(folder, "torch", "version.py").is_file():
            sys.path.append(folder)
            found = _import()
    if found is None:
        return None
    release = tuple(int(part) for part in found.__version__.split(".")[:2])
    if release < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        where = Path(found.__file__ or "").parent.parent
        stop(
            f"torch {found.__version__} in {where} is too old, expected {oldest} or newer",
            after_installing(f"torch>={oldest}"),
        )
    return found


def _import() -> ModuleType | None:
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError as error:
        if error.name == "torch":
            return None
        reason: Exception = error
    except (ImportError, OSError) as error:
        reason = error
    force = "uv pip install --reinstall" if tool() == "uv" else "pip install --force-reinstall"
    stop(f"torch cannot be imported ({reason})", f"{force} torch && {again()}")


def note_torch() -> None:
    """Leaves build/torch, a link to the torch that was built for.

    By it uv sees that another one was installed in its place, so that a wheel which it has kept is
    out of date ([tool.uv] in pyproject.toml).
    """
    link = ROOT / "build" / "torch"
    link.parent.mkdir(exist_ok=True)
    with contextlib.suppress(OSError):  # Windows wants a privilege
        link.unlink(missing_ok=True)
        link.symlink_to(Path(sys.modules["torch"].__file__ or "").parent, target_is_directory=True)


def stop_without_torch() -> NoReturn:
    stop(
        "its isolated build sees no environment that has torch"
        if isolated()
        else "torch is missing",
        after_installing("torch", "ninja"),
    )
