"""Builds fusedrnn/_C, the shared library whose load registers the operators.

Three source lists: bindings, compiled with torch; the CPU library, its kernels once for each
instruction set; and CUDA, where there is a toolkit, by nvcc alone. Nothing uses Python's C API, so
one build serves every Python version.

Environment
    CXX            the C++ compiler (default: c++)
    MAX_JOBS       how many files are compiled at once (default: as many as cores)
    FUSEDRNN_CUDA  0 leaves the CUDA kernels out, 1 fails where they cannot be built; default:
                   they are built where torch has CUDA and its toolkit is installed, whether or
                   not a GPU is visible
    CUDA_HOME      that toolkit's folder (default: where the nvcc on PATH lies)
    TORCH_CUDA_ARCH_LIST
                   compute capabilities to compile for (default:
                   7.5;8.0;8.9;9.0a;10.0;12.0); PTX of the newest is added, for later GPUs

torch is not among the build requirements, because the library must be built against the torch it
will run with: tools/build_environment.py finds that one. A wheel requires its minor version and
says in its own version what it was built for, such as 0.1.0+torch2.13.cpu. A source archive has
neither and needs no torch.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
REPOSITORY = "https://github.com/fusedrnn/fusedrnn"
os.chdir(ROOT)
sys.path.insert(0, str(ROOT / "tools"))
import build_environment  # noqa: E402
import cuda_toolkit  # noqa: E402
from build_environment import again, stop  # noqa: E402


def files(*patterns: str) -> list[str]:
    """Paths relative to the project that match, in a fixed order."""
    return sorted(p.relative_to(ROOT).as_posix() for q in patterns for p in ROOT.glob(q))


BINDINGS = [path for path in files("csrc/bindings/*.cpp") if "/cuda" not in path]
CPU = files("csrc/cpu/*.cpp", "csrc/plan/*.cpp")
CELLS = [path for path in files("csrc/cells/*.h") if Path(path).stem not in ("cell", "registry")]
TABLE_SOURCE, CELL_SOURCE = "csrc/cpu/isa/table.cpp", "csrc/cpu/isa/cell.cpp"
KERNEL_HEADERS = files(*(f"csrc/{folder}/**/*.h" for folder in ("common", "math", "plan", "cpu")))
CUDA = files("csrc/cuda/**/*.cpp", "csrc/bindings/cuda*.cpp")
CUDA_CELL_SOURCE = "csrc/cuda/cell.cu"
CUDA_SOURCES = files("csrc/cuda/**/*.cu")
CUDA_SOURCES.remove(CUDA_CELL_SOURCE)
STORAGES = ("BFloat16", "Float16", "float", "double")
ARCHITECTURES = os.environ.get("TORCH_CUDA_ARCH_LIST") or cuda_toolkit.DEFAULT_ARCHITECTURES
HEADERS = files("csrc/**/*.h", "csrc/**/*.cuh")

MSVC = sys.platform == "win32"
AVX2 = ["/arch:AVX2"] if MSVC else ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [f"-mavx512{part}" for part in ("f", "bw", "dq", "vl")]
ISA_FLAGS = {"generic": []}  # the compiler's baseline
if platform.machine().lower() in ("x86_64", "amd64"):
    ISA_FLAGS["avx2"] = AVX2
    ISA_FLAGS["avx512"] = (
        ["/arch:AVX512"] if MSVC else [*AVX2, *AVX512, "-mprefer-vector-width=512"]
    )
OPTIMIZE = ["/O2"] if MSVC else ["-O3", "-g0", "-Wall"]
KERNEL = ["/std:c++17"] if MSVC else ["-std=c++17", "-ffp-contract=fast", "-fno-math-errno"]
KERNEL += [] if MSVC else ["-fno-trapping-math"]
NVCC = ["-O3", "-std=c++17", "-Icsrc", *([] if MSVC else ["-Xcompiler", "-fPIC"])]


def cuda_missing() -> str:
    """Why the CUDA kernels are not built; empty when they are."""
    wish = os.environ.get("FUSEDRNN_CUDA", "")
    if wish == "0":
        return "FUSEDRNN_CUDA=0"
    reason = ""
    if torch.version.cuda is None:
        reason = "this torch is built without CUDA"
    elif not os.environ["CUDA_HOME"]:
        reason = "no CUDA toolkit was found, set CUDA_HOME"
    elif TOOLKIT.split(".")[0] != torch.version.cuda.split(".")[0]:
        reason = f"torch is built with CUDA {torch.version.cuda}, the toolkit is {TOOLKIT or '?'}"
    if wish == "1" and reason:
        stop(f"FUSEDRNN_CUDA=1, but {reason}", f"FUSEDRNN_CUDA=0 {again()}")
    return reason


def torch_release() -> str:
    """torch's version up to the minor one, within which its binary interface stays."""
    return ".".join(torch.__version__.split(".")[:2])


def torch_requirement() -> str:
    """What is built runs with the minor version of torch that it was built with."""
    oldest = ".".join(map(str, build_environment.OLDEST_TORCH))
    return f"torch>={oldest}" if torch is None else f"torch=={torch_release()}.*"


def version() -> str:
    """The package's version and, of a wheel, what it is for, such as 0.1.0+torch2.13.cu130.

    An installer that unpacked a source archive refuses another version than the archive's.
    """
    text = Path("fusedrnn", "__init__.py").read_text(encoding="utf-8")
    [public] = re.findall(r'^__version__ = "(.+)"$', text, re.M)
    unpacked = Path("PKG-INFO").exists() and build_environment.tool() in ("pip", "uv")
    if torch is None or unpacked:
        return public
    device = "cpu" if cuda_missing() else f"cu{torch.version.cuda.replace('.', '')}"
    return f"{public}+torch{torch_release()}.{device}"


def long_description() -> str:
    """README with its relative links and pictures as addresses, since PyPI shows it alone."""
    tag = f"v{version().partition('+')[0]}"

    def absolute(link: re.Match[str]) -> str:
        kind = "raw" if link[1].startswith("!") else "blob"
        return f"{link[1]}({REPOSITORY}/{kind}/{tag}/{link[2]})"

    text = Path("README.md").read_text(encoding="utf-8")
    return re.sub(r"(!?\[[^\[\]]*\])\((?!https?:|#)([^)\s]+)\)", absolute, text)


def openmp_flags() -> list[str]:
    """Flags with which the extension shares torch's OpenMP threads; none where it cannot."""
    if not torch.backends.openmp.is_available() or sys.platform == "darwin":
        return []
    return ["/openmp"] if MSVC else ["-fopenmp"]


class CudaObject(NamedTuple):
    """A source that nvcc compiles: once, or once for each header of cells and storage type."""

    source: str
    name: str
    flags: list[str]


def cuda_objects() -> list[CudaObject]:
    """Those that take longest come first."""
    gencode = cuda_toolkit.gencode_flags(ARCHITECTURES)
    objects = []
    for storage in STORAGES:
        # No GPU of a generation computes in float64 by other instructions than its first one.
        flags = cuda_toolkit.gencode_flags(ARCHITECTURES, one_a_generation=storage == "double")
        for cells in CELLS:
            header = f'-DFUSEDRNN_CELL_HEADER="{cells.removeprefix("csrc/")}"'
            name = f"cell_{Path(cells).stem}.{storage}"
            flags_of_cells = [*flags, header, f"-DFUSEDRNN_STORAGE={storage}"]
            objects.append(CudaObject(CUDA_CELL_SOURCE, name, flags_of_cells))
    return objects + [CudaObject(source, Path(source).stem, gencode) for source in CUDA_SOURCES]


def make_extension() -> Extension:
    """The extension; without torch, only what other commands need: its list of sources."""
    depends = [TABLE_SOURCE, CELL_SOURCE, CUDA_CELL_SOURCE, *CUDA_SOURCES, *HEADERS]
    if torch is None:
        return Extension("fusedrnn._C", BINDINGS + CPU, depends=depends)
    with_cuda = not cuda_missing()
    kind = cpp_extension.CUDAExtension if with_cuda else cpp_extension.CppExtension
    macros = [f"-DFUSEDRNN_BUILD_{isa.upper()}" for isa in ISA_FLAGS if isa != "generic"]
    return kind(
        "fusedrnn._C",
        BINDINGS + CPU + (CUDA if with_cuda else []),
        include_dirs=[str(ROOT / "csrc")],
        depends=depends,
        extra_compile_args={"cxx": [*OPTIMIZE, *openmp_flags(), *macros]},
        extra_link_args=[] if MSVC else openmp_flags(),
        py_limited_api=True,
    )


class BuildWithoutTorch(build_ext):
    def run(self) -> None:
        build_environment.stop_without_torch()


def build_with_torch() -> type[build_ext]:
    class BuildWithTorch(cpp_extension.BuildExtension.with_options(no_python_abi_suffix=True)):
        def finalize_options(self) -> None:
            # One place for objects, so that an editable install is incremental as well.
            self.build_temp = self.build_temp or f"build/objects-{sysconfig.get_platform()}"
            super().finalize_options()

        def build_extensions(self) -> None:
            compiler = shlex.split(os.environ.get("CXX", "c++"))[0]
            if not MSVC and shutil.which(compiler) is None:
                other = f" && CXX=g++ {again()}" if "CXX" in os.environ else ""
                stop(f"the C++ compiler {compiler} is missing", "apt-get install g++" + other)
            # Before torch patches the compiler for its own flags.
            jobs = int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))
            with ThreadPoolExecutor(max(jobs, 1)) as pool:
                built = [
                    pool.submit(self.build_cuda, each)
                    for each in ([] if cuda_missing() else cuda_objects())
                ]
                built += [
                    pool.submit(self.build_kernels, isa, cells)
                    for isa in reversed(ISA_FLAGS)  # those that take longest first
                    for cells in (*CELLS, None)
                ]
                self.extensions[0].extra_objects = [each.result() for each in built]
            super().build_extensions()
            build_environment.note_torch()
            missing = cuda_missing()
            print(
                "\nfusedrnn was built\n"
                f"  torch             {torch.__version__}\n"
                f"  instruction sets  {', '.join(ISA_FLAGS)}\n"
                f"  OpenMP            {'yes' if openmp_flags() else 'no: one thread'}\n"
                f"  CUDA              {'no: ' + missing if missing else 'for ' + ARCHITECTURES}\n"
            )

        def build_cuda(self, given: CudaObject) -> str:
            """Compiles it, unless neither its command nor a file that it includes has changed.

            Beside the object lie its `.d`, those files, and its `.json`: the command and the
            seconds that it took.
            """
            built = Path(self.build_temp, "cuda", given.name + (".obj" if MSVC else ".o"))
            built.parent.mkdir(parents=True, exist_ok=True)
            included, record = built.with_suffix(".d"), built.with_suffix(".json")
            flags = [*NVCC, *given.flags, "-MD", "-MF", str(included)]
            nvcc = str(Path(os.environ["CUDA_HOME"], "bin", "nvcc"))
            command = [nvcc, *flags, "-c", given.source, "-o", str(built)]
            try:
                same = json.loads(record.read_text())["command"] == command
                _, names = included.read_text().replace("\\\n", " ").split(": ", 1)
                newest = max(os.path.getmtime(name) for name in names.split())
                if same and os.path.getmtime(built) >= newest:
                    return str(built)
            except (OSError, ValueError):
                pass  # it was never compiled, or not to the end
            record.unlink(missing_ok=True)
            start = time.monotonic()
            self.spawn(command)
            seconds = round(time.monotonic() - start, 1)
            record.write_text(json.dumps({"command": command, "seconds": seconds}))
            return str(built)

        def build_kernels(self, isa: str, cells: str | None) -> str:
            """Compiles those of a header's cells, or the table, unless nothing has changed."""
            folder = Path(self.build_temp, isa, Path(cells or "").stem)
            source = CELL_SOURCE if cells else TABLE_SOURCE
            [built] = self.compiler.object_filenames([source], output_dir=str(folder))
            needed = [cells] if cells else [*CELLS, "csrc/cells/registry.h"]
            needed += [source, "setup.py", "csrc/cells/cell.h", *KERNEL_HEADERS]
            newest = max(os.path.getmtime(path) for path in needed)
            if not os.path.exists(built) or os.path.getmtime(built) < newest:
                flags = [*OPTIMIZE, *KERNEL, *ISA_FLAGS[isa], f"-DFUSEDRNN_ISA={isa}"]
                if cells:
                    flags.append(f'-DFUSEDRNN_CELL_HEADER="{cells.removeprefix("csrc/")}"')
                self.compiler.compile(
                    [source],
                    output_dir=str(folder),
                    include_dirs=["csrc"],
                    extra_postargs=flags,
                )
            return built

    return BuildWithTorch


# Nothing in a source archive depends on torch.
torch = None if "sdist" in sys.argv else build_environment.find_torch()
if torch is not None:
    os.environ["CUDA_HOME"] = cuda_toolkit.find_home() or ""
    from torch.utils import cpp_extension

    TOOLKIT = cuda_toolkit.release(os.environ["CUDA_HOME"])

setup(
    version=version(),
    long_description=long_description(),
    long_description_content_type="text/markdown",
    install_requires=[torch_requirement()],
    ext_modules=[make_extension()],
    cmdclass={"build_ext": build_with_torch() if torch else BuildWithoutTorch},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
