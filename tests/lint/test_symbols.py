"""What the engine's object files hold and call, and what the library beside it is called."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from lint.tree import CSRC, c_code, c_files

# Of the whole process, and nothing else: counters of the allocator, the kernels chosen at start.
ALLOWED_STATE = {
    "base/alloc.c": {"live_bytes", "peak_bytes", "requests", "fail_at", "fail_forever"},
    "base/blas.c": {"fork_gate", "forking", "fork_handlers", "once", "products"},
    "kernels/kernels.c": {"chosen"},
}
ENDS_THE_PROCESS_OR_PRINTS = {
    "exit", "_exit", "_Exit", "quick_exit", "abort", "raise", "printf", "fprintf", "vprintf",
    "vfprintf", "puts", "fputs", "putchar", "fputc", "perror", "fwrite", "__assert_fail",
}  # fmt: skip
ALLOCATES = {
    "malloc", "calloc", "realloc", "free", "aligned_alloc", "posix_memalign", "memalign", "strdup",
}  # fmt: skip
HIDES_INPUTS = {"getenv", "secure_getenv", "rand", "random", "time", "clock"}


@dataclass(frozen=True)
class Object:
    """Symbols of one object file."""

    source: str
    undefined: frozenset[str]
    state: frozenset[str]


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def objects(tmp_path_factory) -> list[Object]:
    """The core, compiled without Python.h in reach and without optimisation."""
    compiler = os.environ.get("CC") or "gcc"
    for program in (compiler, "objdump"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    folder, found = tmp_path_factory.mktemp("objects"), []
    for path in c_files("base", "kernels", "model"):
        if path.suffix == ".c":
            target = folder / f"{path.parent.name}-{path.stem}.o"
            flags = ["-std=c11", "-O0", "-DNDEBUG", "-Wall", "-Wextra", "-Werror", "-pthread"]
            run(compiler, *flags, "-fopenmp-simd", "-c", str(path), "-o", str(target))
            found.append(read_object(target, str(path.relative_to(CSRC))))
    return found


def read_object(path: Path, source: str) -> Object:
    undefined, state = set(), set()
    for line in run("objdump", "-t", str(path)).splitlines():
        # value, seven flag characters, section, size, name
        match = re.match(r"[0-9a-f]+ (.{7}) (\S+)\s+[0-9a-f]+\s+(?:\.hidden )?(\S+)$", line)
        if match is None:
            continue
        flags, section, name = match.groups()
        if section == "*UND*":
            undefined.add(name)
        # .data.rel.ro holds tables that are constant once they are loaded
        is_writable = section.startswith((".data", ".bss", ".tdata", ".tbss", "*COM*"))
        if is_writable and not section.startswith(".data.rel.ro") and "O" in flags:
            state.add(re.sub(r"\.\d+$", "", name))
    return Object(source, frozenset(undefined), frozenset(state))


def test_no_mutable_state_but_the_listed(objects) -> None:
    assert {o.source: set(o.state) for o in objects if o.state} == ALLOWED_STATE


def test_engine_neither_ends_the_process_nor_prints(objects) -> None:
    assert {o.source: o.undefined & ENDS_THE_PROCESS_OR_PRINTS for o in objects
            if o.undefined & ENDS_THE_PROCESS_OR_PRINTS} == {}  # fmt: skip


def test_engine_has_no_hidden_inputs(objects) -> None:
    assert {o.source for o in objects if o.undefined & HIDES_INPUTS} == set()


def test_one_file_allocates(objects) -> None:
    assert {o.source for o in objects if o.undefined & ALLOCATES} == {"base/alloc.c"}


def test_one_file_makes_threads(objects) -> None:
    assert {o.source for o in objects if "pthread_create" in o.undefined} == {"base/team.c"}


def test_binding_neither_ends_the_process_nor_prints() -> None:
    banned = re.compile(rf"\b(?:{'|'.join(sorted(ENDS_THE_PROCESS_OR_PRINTS))})\s*\(")
    for path in c_files("python"):
        assert banned.findall(c_code(path)) == [], path


def test_frozen_means_no_weight_gradient() -> None:
    for path in c_files():
        assert not re.search(r"\bdw\b|dweight|weight_grad", c_code(path), re.IGNORECASE), path


# ---- the library that travels with the package ----


@pytest.fixture(scope="module")
def vendored() -> Path:
    from softprompt import _core

    libraries = sorted((Path(_core.__file__).parent / "_libs").glob("*.so*"))
    if not libraries:
        pytest.skip("built with SOFTPROMPT_BLAS=system")
    (library,) = libraries
    return library


def test_vendored_library_has_names_of_its_own(vendored) -> None:
    if shutil.which("nm") is None or shutil.which("readelf") is None:
        pytest.skip("needs nm and readelf")
    names = [line.split()[0] for line in run("nm", "-DP", "--defined-only", vendored).splitlines()]
    assert len(names) > 1000
    assert [name for name in names if not name.startswith("softprompt_")] == []
    assert "soname: [libsoftprompt_openblas.so]" in run("readelf", "-d", vendored)


def test_vendored_library_travels_with_its_licence(vendored) -> None:
    text = (vendored.parent / "LICENSE-OpenBLAS.txt").read_text(encoding="utf-8")
    assert "OpenBLAS" in text
    assert "Redistributions in binary form" in text


def test_other_copies_in_the_process_are_not_called(vendored) -> None:
    """A second OpenBLAS with global symbols of the usual names comes first, and changes nothing."""
    script = """
import ctypes, importlib.util, pathlib, sys
spec = importlib.util.find_spec("scipy_openblas32")
libraries = []
if spec is not None:
    libraries = sorted(pathlib.Path(spec.origin).parent.glob("lib/libscipy_openblas*.so"))
if not libraries:
    import scipy
    libraries = sorted(pathlib.Path(scipy.__file__).parent.parent.glob("scipy.libs/*openblas*"))
if not libraries:
    sys.exit(77)
other = ctypes.CDLL(str(libraries[0]), mode=ctypes.RTLD_GLOBAL)
before = other.scipy_openblas_get_num_threads()
from softprompt import _core
_core.initialize(None)  # sets one thread in the engine's copy and tests its products
assert other.scipy_openblas_get_num_threads() == before, "the engine changed another's copy"
own = ctypes.CDLL(sys.argv[1])
assert own.softprompt_openblas_get_num_threads() == 1
"""
    # OPENBLAS_NUM_THREADS=2: on a machine with one CPU both copies would have one thread anyway
    done = subprocess.run(
        [sys.executable, "-c", script, str(vendored)],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("no second OpenBLAS at hand")
    assert done.returncode == 0, done.stderr
