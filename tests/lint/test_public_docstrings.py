"""Everything public is documented, and what users call is documented parameter by parameter."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from lint.tree import ROOT, python_files

import softprompt

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public_definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Public functions and classes of a module, and the public methods of its classes."""
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body, f"{prefix}{node.name}.")


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_public_definition_has_a_docstring(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    missing = []
    for name, node in public_definitions(tree.body):
        # a method that implements a documented one says nothing new
        is_method = "." in name and not isinstance(node, ast.ClassDef)
        is_accessor = any("setter" in ast.dump(d) for d in node.decorator_list)
        if ast.get_docstring(node) is None and not is_accessor:
            missing.append(name if not is_method or not inherits(tree, name) else None)
    assert [name for name in missing if name] == []


def inherits(tree: ast.Module, name: str) -> bool:
    owner = name.split(".")[0]
    return any(isinstance(n, ast.ClassDef) and n.name == owner and n.bases for n in tree.body)


def public_api() -> list[tuple[str, object]]:
    """What the package's root offers, the optimisers among it, and the methods of its classes."""
    found: dict[str, object] = {}
    for name in softprompt.__all__:
        value = getattr(softprompt, name)
        inner = {f"{name}.{n}": getattr(value, n) for n in getattr(value, "__all__", [])}
        found |= {n: v for n, v in (inner or {name: value}).items() if is_documented_kind(v)}
    for name, value in list(found.items()):
        if inspect.isclass(value):
            for inner, method in inspect.getmembers(value, inspect.isroutine):
                is_ours = (getattr(method, "__module__", "") or "").startswith("softprompt")
                if is_ours and not inner.startswith("_"):
                    found[f"{name}.{inner}"] = method
    return sorted(found.items())


def is_documented_kind(value: object) -> bool:
    """A function or a class: constants, tables and type aliases are described where they stand."""
    return inspect.isroutine(value) or inspect.isclass(value)


def section(doc: str, title: str) -> str | None:
    """The text of one numpydoc section, or None."""
    match = re.search(rf"^{title}\n-+\n(.*?)(?=^\w[\w ]*\n-+\n|\Z)", doc, re.MULTILINE | re.DOTALL)
    return None if match is None else match[1]


MADE_BY_A_FUNCTION = {"Model"}  # users call load_model
REFERENCE = re.compile(r"\b(?:[Aa]s|[Ss]ee) `\w+`")


def described(doc: str) -> set[str]:
    """Parameters with an entry of their own, or named in backticks in the text."""
    entries = (section(doc, "Parameters") or "") + (section(doc, "Attributes") or "")
    names = re.findall(r"^(\S[^:\n]*?)(?: :|$)", entries, re.MULTILINE)
    in_entries = {name.strip().lstrip("*") for line in names for name in line.split(",")}
    return in_entries | set(re.findall(r"`(\w+)`", doc))


@pytest.mark.parametrize(("name", "value"), public_api(), ids=[name for name, _ in public_api()])
def test_public_api_is_documented_as_numpydoc(name: str, value: object) -> None:
    doc = inspect.getdoc(value) or ""
    assert doc, f"{name} has no docstring"
    if inspect.isclass(value) and (issubclass(value, Warning) or name in MADE_BY_A_FUNCTION):
        return
    parameters = [p for p in inspect.signature(value).parameters if p not in ("self", "cls")]
    missing = [p for p in parameters if p not in described(doc)]
    if REFERENCE.search(doc):  # "As `loss_and_grad`, but ...": described there
        missing = []
    assert missing == [], f"{name}: parameters without a description"
    if inspect.isroutine(value):
        returns = inspect.signature(value).return_annotation
        if returns not in (None, "None", inspect.Signature.empty, "NoReturn"):
            says = section(doc, "Returns") or section(doc, "Yields") or section(doc, "Raises")
            short = not parameters and re.match(r"\S.*\.", doc)
            assert says or short or REFERENCE.search(doc), (
                f"{name} returns {returns} and does not say what that is"
            )
