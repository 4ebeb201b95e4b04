"""Build of the C engine ``softprompt._core`` and of the BLAS library that travels with it.

The project's metadata is in pyproject.toml. Environment variables read here:

SOFTPROMPT_BLAS      "scipy-openblas32" (default on Linux) or "system" (default elsewhere)
SOFTPROMPT_DEBUG     "1": no optimisation, assertions on, debug symbols
SOFTPROMPT_SANITIZE  "address,undefined" or "thread": instrument the engine
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import SetupError

ROOT = Path(__file__).resolve().parent
LIBRARY = "softprompt_openblas"

BOTH_WAYS = """
softprompt needs OpenBLAS, and there are two ways to give it one:
  SOFTPROMPT_BLAS=scipy-openblas32  (Linux only) the library of the PyPI packages named in
                                    pyproject.toml under build-system.requires; pip installs them
                                    by itself unless --no-build-isolation is given
  SOFTPROMPT_BLAS=system            an installed OpenBLAS that `pkg-config openblas` finds
                                    (Debian: apt install libopenblas-dev pkg-config)
"""

COMPILE = [
    "-std=c11",
    "-O3",
    "-fopenmp-simd",  # the `omp simd` pragmas only: no OpenMP run time
    "-ffp-contract=off",  # a kernel that wants fused multiply-add says so itself
    "-fno-math-errno",
    "-fvisibility=hidden",
    "-pthread",
    "-Wall",
    "-Wextra",
]


def stop(problem: str) -> SetupError:
    return SetupError(f"{problem}\n{BOTH_WAYS}")


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def tool(name: str) -> str:
    """Path of a program on PATH or among the scripts of the running Python."""
    found = shutil.which(name) or shutil.which(name, path=sysconfig.get_path("scripts"))
    if found is None:
        raise stop(f"The program {name!r} was not found; the build needs it.")
    return found


class VendoredBlas:
    """The library of scipy-openblas32, renamed so that no other copy in the process meets it.

    The wheel's library carries a soname and symbols (``scipy_cblas_sgemm``, ...) that other
    packages bring too, and importing ``scipy_openblas32`` makes them global: the dynamic linker
    would then give our calls, and the library's calls to itself, to that copy whatever its
    version. With names of our own there is one candidate for every symbol.
    """

    prefix = "softprompt_"

    def __init__(self) -> None:
        if not sys.platform.startswith("linux"):
            raise stop(f"SOFTPROMPT_BLAS=scipy-openblas32 is not supported on {sys.platform!r}.")
        # find_spec, not import: the package loads its library into the process when imported
        spec = importlib.util.find_spec("scipy_openblas32")
        if spec is None or spec.origin is None:
            raise stop("The package scipy-openblas32 is not installed.")
        self.package = Path(spec.origin).parent

    def prepare(self, folder: Path) -> None:
        """Write the renamed library and its licence texts into `folder`."""
        found = sorted(self.package.glob("lib/libscipy_openblas*.so"))
        licences = sorted(self.package.parent.glob("scipy_openblas32-*.dist-info/**/LICENSE*"))
        if len(found) != 1 or not licences:
            raise stop(f"{self.package}: expected one library and its licence, found {found}.")
        folder.mkdir(parents=True, exist_ok=True)
        symbols = run(tool("nm"), "-DP", "--defined-only", str(found[0])).splitlines()
        exported = [line.split()[0] for line in symbols]
        renames = folder / "renames.txt"
        renames.write_text(
            "".join(f"{name} {self.prefix}{name.removeprefix('scipy_')}\n" for name in exported)
        )
        library = f"lib{LIBRARY}.so"
        edits = ["--set-soname", library, "--rename-dynamic-symbols", str(renames)]
        run(tool("patchelf"), *edits, "--output", str(folder / library), str(found[0]))
        renames.unlink()
        shutil.copyfile(licences[0], folder / "LICENSE-OpenBLAS.txt")

    def configure(self, extension: Extension, folder: Path) -> None:
        extension.library_dirs.append(str(folder))
        extension.libraries.append(LIBRARY)
        extension.extra_link_args += ["-Wl,-rpath,$ORIGIN/_libs"]


class SystemBlas:
    """An installed OpenBLAS, described by pkg-config; nothing is copied."""

    prefix = ""

    def __init__(self) -> None:
        try:
            flags = run(tool("pkg-config"), "--cflags", "--libs", "openblas")
        except subprocess.CalledProcessError as err:
            raise stop(f"pkg-config knows no 'openblas': {err.stderr.strip()}") from err
        self.flags = shlex.split(flags)

    def configure(self, extension: Extension, folder: Path) -> None:
        for flag in self.flags:
            is_compile_flag = flag.startswith(("-I", "-D"))
            args = extension.extra_compile_args if is_compile_flag else extension.extra_link_args
            args.append(flag)


def choose_blas() -> VendoredBlas | SystemBlas:
    default = "scipy-openblas32" if sys.platform.startswith("linux") else "system"
    choice = os.environ.get("SOFTPROMPT_BLAS") or default
    if choice == "scipy-openblas32":
        return VendoredBlas()
    if choice == "system":
        return SystemBlas()
    raise stop(f"SOFTPROMPT_BLAS={choice!r}: expected 'scipy-openblas32' or 'system'.")


class BuildEngine(build_ext):
    """Compiles the engine and puts the vendored library beside it."""

    def run(self) -> None:
        in_place = self.inplace  # build_ext builds into build_lib first and copies afterwards
        blas = choose_blas()
        prepared = Path(self.build_temp).resolve() / "_libs"
        if isinstance(blas, VendoredBlas):
            blas.prepare(prepared)
        for extension in self.extensions:
            extension.define_macros.append(("SP_BLAS_PREFIX", blas.prefix))
            blas.configure(extension, prepared)
        super().run()
        package = ROOT / "softprompt" if in_place else Path(self.build_lib) / "softprompt"
        shutil.rmtree(package / "_libs", ignore_errors=True)
        if isinstance(blas, VendoredBlas):
            shutil.copytree(prepared, package / "_libs")


def engine() -> Extension:
    compile_args, link_args = list(COMPILE), ["-pthread"]
    undefine = []
    if os.environ.get("SOFTPROMPT_DEBUG") == "1":
        compile_args += ["-O0", "-g3"]
        undefine.append("NDEBUG")
    if sanitize := os.environ.get("SOFTPROMPT_SANITIZE"):
        flags = [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g"]
        compile_args += [*flags, "-O1"]
        link_args += flags
        undefine.append("NDEBUG")
    layers = ("base", "kernels", "model", "python")
    # relative to setup.py, as an sdist demands; sorted, so that builds are reproducible
    sources = sorted(
        str(path.relative_to(ROOT)) for layer in layers for path in ROOT.glob(f"csrc/{layer}/*.c")
    )
    headers = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("csrc/**/*.h"))
    return Extension(
        "softprompt._core",
        sources=sources,
        depends=headers,
        include_dirs=["csrc", numpy.get_include()],
        undef_macros=undefine,
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )


setup(ext_modules=[engine()], cmdclass={"build_ext": BuildEngine})
