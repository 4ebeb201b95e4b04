"""Options that several commands have, described once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Threads = Annotated[
    int | None, typer.Option("--threads", help="Threads of the engine; default: all CPUs.")
]


class Form(StrEnum):
    """In which form weights are held."""

    stored = "stored"
    float32 = "float32"


Weights = Annotated[
    Form,
    typer.Option("--weights", help="Weights as their file stores them, or converted once."),
]
MemoryLimit = Annotated[
    int | None,
    typer.Option("--memory-limit", help="Bytes that weights and workspace may take."),
]
Data = Annotated[Path, typer.Option(help="Rows: .jsonl, .csv or .tsv; - reads JSONL from stdin.")]
ModelName = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Name, folder or .gguf file of the model; default: the one a saved prompt names.",
    ),
]
PromptFolder = Annotated[
    Path | None, typer.Option("--prompt", help="Folder of a saved prompt; without: zero-shot.")
]
TemplateText = Annotated[
    str | None,
    typer.Option(
        help=r'Text with fields in braces, "Review: {sentence}\nSentiment:"; \n is a line end.'
    ),
]
LabelTexts = Annotated[
    str | None,
    typer.Option(
        help='Class -> text as JSON, {"0": " bad", "1": " good"}, or as "0= bad,1= good"; or '
        'names alone, "ham,spam", which are put after a blank.'
    ),
]
Chat = Annotated[
    bool,
    typer.Option(
        "--chat", help="Put every text into the user's turn of the model's own chat template."
    ),
]
LabelField = Annotated[str, typer.Option(help="Field of the class.")]
TargetField = Annotated[
    str | None, typer.Option(help="Field of the target text: text to text instead of classes.")
]
