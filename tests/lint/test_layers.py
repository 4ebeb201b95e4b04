"""A part may know the parts below it and none above: docs/architecture.md, checked."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from lint.tree import CSRC, PACKAGE, ROOT, c_code, c_files, python_files

# ---- C: csrc/python -> csrc/model -> csrc/kernels -> csrc/base ----

C_LAYERS = ["base", "kernels", "model", "python"]
PUBLIC_HEADER = CSRC / "softprompt.h"


def includes(path: Path) -> list[tuple[str, str]]:
    """(`"` or `<`, name) of the includes of a file."""
    text = path.read_text(encoding="utf-8")
    return re.findall(r'^\s*#\s*include\s*(["<])([^">]+)[">]', text, re.MULTILINE)


@pytest.mark.parametrize("path", c_files(*C_LAYERS), ids=lambda path: str(path.relative_to(CSRC)))
def test_c_includes_point_downwards(path: Path) -> None:
    layer = path.relative_to(CSRC).parts[0]
    for kind, name in includes(path):
        if kind == "<":
            is_python = name == "Python.h" or name.startswith("numpy/")
            assert layer == "python" or not is_python, f"{path}: only csrc/python knows {name}"
            continue
        target = (path.parent / name).resolve()
        assert target.is_file(), f"{path}: no file {name}"
        if target == PUBLIC_HEADER:
            continue
        other = target.relative_to(CSRC).parts[0]
        if layer == "python":
            assert other == "python", f"{path}: csrc/python sees softprompt.h alone, not {name}"
        assert C_LAYERS.index(other) <= C_LAYERS.index(layer), f"{path}: {name} is a layer above"


def test_public_header_stands_alone() -> None:
    assert {kind for kind, _ in includes(PUBLIC_HEADER)} == {"<"}


def test_c_headers_have_no_cycles() -> None:
    graph = {
        path: {(path.parent / name).resolve() for kind, name in includes(path) if kind == '"'}
        for path in c_files()
        if path.suffix == ".h"
    }
    assert_no_cycles(graph)


def test_the_blas_library_is_called_in_one_file() -> None:
    users = [path for path in c_files() if re.search(r"\bcblas_|\bopenblas_", c_code(path))]
    assert users == [CSRC / "base" / "blas.c"]


# ---- Python ----

# Who stands on whom. Parts with one number may know each other.
RANKS = {
    "_version": 0,
    "_core": 0,
    "data": 0,
    "formats": 1,
    "tokenizer": 1,
    "families": 1,
    "prompt": 2,
    "model": 2,
    "optim": 3,
    "tuner": 4,
    "estimators": 5,
    "cli": 6,
    "__main__": 7,
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in python_files()}


def public_names() -> dict[str, str]:
    """Where the lazy names of the package's root live."""
    for node in ast.parse(MODULES["softprompt"].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "_PUBLIC":
            return ast.literal_eval(node.value)
    raise AssertionError("softprompt/__init__.py has no table _PUBLIC")


def imported(name: str, path: Path, *, at_import: bool) -> Iterator[str]:
    """Modules of the package that a module imports; `at_import`: not those inside functions or for
    type checkers only."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in statements(ast.parse(path.read_text(encoding="utf-8")), at_import):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *filter(None, [node.module])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                if base == "softprompt" and full not in MODULES:
                    full = public_names().get(alias.name, full)
                is_module = full in MODULES or full == "softprompt._core" or base == "softprompt"
                yield full if is_module else base


def statements(node: ast.AST, at_import: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not (at_import and runs_later(child)):
            yield from statements(child, at_import)


def runs_later(node: ast.AST) -> bool:
    """A function's body, or what is for type checkers alone."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.dump(node.test)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def own(names: Iterator[str]) -> set[str]:
    return {name for name in names if name.split(".")[0] == "softprompt"}


def rank(module: str) -> int:
    parts = module.split(".")
    assert len(parts) > 1, "import the part that is meant, not the package's root"
    assert parts[1] in RANKS, f"{module}: a part that docs/architecture.md does not know"
    return RANKS[parts[1]]


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"softprompt"}))
def test_python_imports_point_downwards(name: str) -> None:
    for other in own(imported(name, MODULES[name], at_import=False)):
        assert rank(other) <= rank(name), f"{name} imports {other}, which stands above it"


def test_python_modules_have_no_cycles() -> None:
    assert_no_cycles(
        {name: own(imported(name, path, at_import=True)) for name, path in MODULES.items()}
    )


def test_every_part_is_ranked() -> None:
    parts = {name.split(".")[1] for name in MODULES if "." in name}
    assert parts <= set(RANKS)
    assert all((PACKAGE / part).exists() for part in parts if f"softprompt.{part}" not in MODULES)


def assert_no_cycles(graph: dict) -> None:
    try:
        TopologicalSorter({key: value - {key} for key, value in graph.items()}).prepare()
    except CycleError as err:
        raise AssertionError(f"these import each other: {err.args[1]}") from None
