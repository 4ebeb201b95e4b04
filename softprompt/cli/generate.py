"""``softprompt generate``: continue texts, each after its own prompt if wanted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from softprompt.cli.models import load_prompt, model_for
from softprompt.cli.options import (
    Chat,
    Debug,
    Form,
    Json,
    MemoryLimit,
    ModelName,
    Threads,
    Weights,
)
from softprompt.cli.running import report


def generate(
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; without any, the lines of stdin.")
    ] = None,
    model: ModelName = None,
    prompt: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of a saved prompt; one for all texts, or once for each text."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Most new tokens of a text.")] = 50,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from this much probability.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of drawing.")] = None,
    num_beams: Annotated[int, typer.Option(help="Above 1: beam search.")] = 1,
    length_penalty: Annotated[
        float, typer.Option(help="Of beam search; above 0 favours long texts, below 0 short ones.")
    ] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="Text at which to stop.")] = None,
    chat: Chat = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Show one text's words as they come.")
    ] = False,
    threads: Threads = None,
    weights: Weights = Form.stored,
    memory_limit: MemoryLimit = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Continue texts as they are given; `predict` fills a prompt's template instead."""
    inputs = list(texts or []) or [line.rstrip("\r\n") for line in sys.stdin]
    if not inputs:
        raise typer.BadParameter("no texts, neither as arguments nor on stdin", param_hint="TEXTS")
    if stream and (as_json or len(inputs) > 1):
        raise typer.BadParameter("for one text, without --json", param_hint="--stream")
    folders = list(prompt or [])
    if len(folders) not in (0, 1, len(inputs)):
        raise typer.BadParameter(
            f"{len(folders)} prompts for {len(inputs)} texts; expected one, or one a text",
            param_hint="--prompt",
        )
    loaded = {folder: load_prompt(folder) for folder in dict.fromkeys(folders)}
    chosen: Any = [loaded[folder] for folder in folders]
    language_model = model_for(
        model, chosen, threads, weights=weights.value, memory_limit=memory_limit
    )
    for soft_prompt in loaded.values():
        soft_prompt.check_model(language_model)
    outputs = language_model.generate(
        _in_a_chat(language_model, inputs) if chat else inputs,
        prompt=chosen[0] if len(chosen) == 1 else (chosen or None),
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        num_beams=num_beams,
        length_penalty=length_penalty,
        stop=stop or None,
        stream=_show if stream else None,
    )
    if stream:
        print()
        return
    results = [
        {"input": text, "output": output} for text, output in zip(inputs, outputs, strict=True)
    ]
    for i, folder in enumerate(folders if len(folders) > 1 else folders * len(inputs)):
        results[i]["prompt"] = str(folder)
    report({"model": str(language_model.config.name_or_path), "results": results},
           "\n".join(outputs), as_json=as_json)  # fmt: skip


def _in_a_chat(model: Any, texts: list[str]) -> list[list[int]]:
    """Return the ids of texts as the user's turn of the model's chat template."""
    from softprompt.estimators.base import chat_frame
    from softprompt.estimators.encoding import TextEncoder

    return TextEncoder.of(model, chat_frame(model, True)).texts(texts)


def _show(row: int, piece: str) -> None:
    print(piece, end="", flush=True)
