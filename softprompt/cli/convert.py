"""``softprompt convert``: a prompt's file of one system to that of another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from softprompt.cli.info import file_sizes
from softprompt.cli.models import load_prompt, model_for
from softprompt.cli.options import Debug, Json, ModelName, Threads
from softprompt.cli.running import report


def convert(
    source: Annotated[Path, typer.Argument(help="Any prompt's file or folder.")],
    target: Annotated[Path, typer.Argument(help="File or folder to write.")],
    to: Annotated[
        str,
        typer.Option(
            help="peft (a folder), npy, prompt_embeds (safetensors); or the keys and values that a "
            "model makes of it: prefix or cartridge (PEFT folders), past_key_values (safetensors)."
        ),
    ],
    model: ModelName = None,
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a prompt or a prefix as another system reads it."""
    from softprompt.prompt import Prefix
    from softprompt.prompt.export import OF_A_MODEL, TARGETS

    if to not in TARGETS:
        raise typer.BadParameter(f"{to!r}: expected one of {', '.join(TARGETS)}", param_hint="--to")
    prompt = load_prompt(source)
    is_prefix = isinstance(prompt, Prefix)
    if is_prefix:
        written = prompt.export(target, to)
    else:
        language_model = model_for(model, [prompt], threads) if to in OF_A_MODEL else None
        written = prompt.export(target, to, model=language_model)
    files = file_sizes(written)
    result = {
        "source": str(source),
        "target": str(written),
        "to": to,
        "num_virtual_tokens": prompt.num_virtual_tokens,
        "hidden_size": None if is_prefix else prompt.hidden_size,
        "files": files,
    }
    text = f"{written}: " + ", ".join(f"{name} ({size} bytes)" for name, size in files.items())
    report(result, text, as_json=as_json)
