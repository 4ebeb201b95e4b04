"""``softprompt similarity``: how alike prompts are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softprompt.cli.options import Debug, Json
from softprompt.cli.running import report


def similarity(
    prompts: Annotated[list[Path], typer.Argument(help="Files or folders of two or more prompts.")],
    metric: Annotated[
        str,
        typer.Option(help="average (of the vectors, compared) or per_token (compared, averaged)."),
    ] = "average",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show the cosine similarity of every two prompts."""
    from softprompt.prompt import similarity as compared

    table = compared([str(path) for path in prompts], metric=metric)
    report(table.to_dict(), str(table), as_json=as_json)
