"""The model and the prompt that a command was given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from softprompt.cli.running import say


def load(name: str, threads: int | None = None, **options: Any) -> Any:
    """Return the model of that name or path, with options of `load_model`, saying so on stderr."""
    from softprompt.model.load import load_model

    say(f"loading {name} ...")
    return load_model(name, num_threads=threads, **options)


def load_prompt(folder: Path) -> Any:
    """Return the prompt or prefix saved in a file or folder."""
    from softprompt.prompt import load_prompt as load_saved

    return load_saved(folder)


def model_for(
    name: str | None, prompts: list[Any], threads: int | None = None, **options: Any
) -> Any:
    """Return the named model, or the one that the prompts were made for.

    Raises
    ------
    typer.BadParameter
        If neither says which.
    """
    for prompt in prompts:
        name = name or (prompt.base_model or {}).get("name_or_path")
    if not name:
        raise typer.BadParameter("needed: no saved prompt names a model", param_hint="--model")
    return load(name, threads, **options)
