"""``softprompt neighbors``: the vocabulary tokens nearest to every virtual token."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softprompt.cli.models import load_prompt, model_for
from softprompt.cli.options import Debug, Json, ModelName
from softprompt.cli.running import report


def neighbors(
    prompt: Annotated[Path, typer.Argument(help="Folder of a saved prompt.")],
    model: ModelName = None,
    k: Annotated[int, typer.Option("-k", "--k", help="Neighbours of each row.")] = 5,
    metric: Annotated[str, typer.Option(help="cosine, euclidean or both.")] = "both",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the vocabulary tokens nearest to every row of a prompt."""
    from softprompt.prompt import neighbors as nearest

    soft_prompt = load_prompt(prompt)
    table = nearest(soft_prompt, model_for(model, [soft_prompt]), k=k, metric=metric)
    report(table.to_dict(), str(table), as_json=as_json)
