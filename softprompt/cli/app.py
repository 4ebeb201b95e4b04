"""The commands in one app."""

from __future__ import annotations

from typing import Annotated

import typer

from softprompt._version import __version__
from softprompt.cli.convert import convert
from softprompt.cli.demo import demo
from softprompt.cli.evaluate import evaluate, predict
from softprompt.cli.generate import generate
from softprompt.cli.info import info
from softprompt.cli.neighbors import neighbors
from softprompt.cli.running import guarded
from softprompt.cli.similarity import similarity
from softprompt.cli.train import train

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # `guarded` reports errors in one line
    rich_markup_mode=None,  # a frame around a message would cut the value it names into two lines
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Soft prompts for frozen language models, trained on a CPU.",
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


for _command in (
    train, evaluate, predict, generate, neighbors, similarity, info, convert, demo,
):  # fmt: skip
    app.command()(guarded(_command))
