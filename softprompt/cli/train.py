"""``softprompt train``: learn a prompt from labelled rows and save it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from softprompt.cli import models
from softprompt.cli.info import file_sizes
from softprompt.cli.labels import as_classes, labels_for, parse_labels
from softprompt.cli.options import (
    Chat,
    Data,
    Debug,
    Form,
    Json,
    LabelField,
    LabelTexts,
    MemoryLimit,
    TargetField,
    Threads,
    Weights,
)
from softprompt.cli.rows import column, read_rows
from softprompt.cli.running import report, say

_STARTS = ("labels", "vocabulary", "random")


def train(
    model: Annotated[str, typer.Option(help="Name, folder or .gguf file of the model.")],
    data: Data,
    template: Annotated[
        str,
        typer.Option(help=r'Text with fields, "Review: {sentence}\nSentiment:"; \n is a line end.'),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the trained prompt.")],
    validation: Annotated[
        Path | None,
        typer.Option(help="Rows that select the best prompt; default: a part of --data."),
    ] = None,
    labels: LabelTexts = None,
    label_field: LabelField = "label",
    target_field: TargetField = None,
    method: Annotated[
        str | None,
        typer.Option(help="prompt (rows before the text) or prefix (keys and values)."),
    ] = None,
    num_virtual_tokens: Annotated[int | None, typer.Option(help="Rows of the prompt.")] = None,
    init: Annotated[
        str | None,
        typer.Option(help='labels, vocabulary, random, "text:..." or a saved prompt\'s folder.'),
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="labels or tokens (with classes only).")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest rate.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Rows of a step.")] = None,
    eval_every: Annotated[int | None, typer.Option(help="Steps between evaluations.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Evaluations without a better prompt that end training.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="Most tokens of a row.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of a target (with --target-field).")
    ] = None,
    chat: Chat = False,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    preset: Annotated[str | None, typer.Option(help="A named recipe: lester2021.")] = None,
    checkpoint_dir: Annotated[
        Path | None, typer.Option(help="Folder from which a stopped run goes on.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from it.")] = False,
    record: Annotated[Path | None, typer.Option(help="JSONL file of losses and scores.")] = None,
    threads: Threads = None,
    weights: Weights = Form.stored,
    memory_limit: MemoryLimit = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a soft prompt or a prefix and save it as a PEFT adapter folder."""
    if resume and checkpoint_dir is None:
        raise typer.BadParameter("needs --checkpoint-dir", param_hint="--resume")
    template = template.replace("\\n", "\n")
    names = parse_labels(labels, template) if labels else None
    rows = read_rows(data)
    y = column(rows, target_field or label_field, data)
    held_out = None
    if validation is not None:
        validation_rows = read_rows(validation)
        validation_y = column(validation_rows, target_field or label_field, validation)
        held_out = (validation_rows, validation_y if target_field else as_classes(validation_y, y))
    parameters: dict[str, Any] = {
        "method": method,
        "num_virtual_tokens": num_virtual_tokens,
        "init": None if init is None else parse_start(init),
        "learning_rate": learning_rate,
        "max_steps": max_steps,
        "batch_size": batch_size,
        "eval_every": eval_every,
        "patience": patience,
        "max_length": max_length,
        "checkpoint_dir": checkpoint_dir,
        "record": record,
        **_for_kind(target_field, objective=objective, max_new_tokens=max_new_tokens),
    }
    parameters = {name: value for name, value in parameters.items() if value is not None}
    parameters |= {"template": template, "random_state": seed, "resume": resume}
    parameters["chat_template"] = chat or None
    if not target_field:
        parameters["labels"] = labels_for(names, y)

    language_model = models.load(model, threads, weights=weights.value, memory_limit=memory_limit)
    estimator = make_estimator(language_model, target_field, preset, parameters)
    say(f"training on {len(rows)} rows ...")
    try:
        estimator.fit(rows, y, validation_data=held_out)
    except KeyboardInterrupt:
        from softprompt.tuner.checkpoint import FILE_NAME

        if checkpoint_dir is not None and (checkpoint_dir / FILE_NAME).exists():
            say(f"the same command with --resume goes on from {checkpoint_dir}")
        raise
    if estimator.prompt_ is None:
        raise typer.BadParameter("0 trains nothing", param_hint="--num-virtual-tokens")
    folder = estimator.prompt_.save(output)
    training = estimator.prompt_.training
    result = {
        "output": str(output),
        "files": file_sizes(folder),
        "num_steps": estimator.n_iter_,
        "best_step": estimator.best_iter_,
        "best_validation_score": estimator.best_score_,
        "num_training_rows": training["num_training_rows"],
        "num_validation_rows": training["num_validation_rows"],
        "seconds": training["seconds"],
    }
    report(result, _text(result), as_json=as_json)


def make_estimator(
    model: Any, target_field: str | None, preset: str | None, parameters: dict[str, Any]
) -> Any:
    """Return an unfitted estimator: text to text with a target field, else a classifier."""
    from softprompt.estimators import SoftPromptClassifier, SoftPromptGenerator

    cls = SoftPromptGenerator if target_field else SoftPromptClassifier
    return cls.from_preset(preset, model, **parameters) if preset else cls(model, **parameters)


def parse_start(text: str) -> Any:
    """Return what an estimator's `init` takes for what a shell says."""
    from softprompt.tuner.starts import TextStart

    if text in _STARTS:
        return text
    return TextStart(text[len("text:") :]) if text.startswith("text:") else Path(text)


def _for_kind(target_field: str | None, **given: Any) -> dict[str, Any]:
    """Return the options that only one kind of task has; refuse those of the other."""
    own = "max_new_tokens" if target_field else "objective"
    for name, value in given.items():
        if value is not None and name != own:
            hint = "--" + name.replace("_", "-")
            raise typer.BadParameter(
                "only without --target-field" if target_field else "only with --target-field",
                param_hint=hint,
            )
    return {own: given[own]}


def _text(result: dict[str, Any]) -> str:
    score = result["best_validation_score"]
    lines = [
        f"{result['num_steps']} steps in {result['seconds']:.0f} s on "
        f"{result['num_training_rows']} rows",
        f"best validation score {score:.4f} after step {result['best_step']} "
        f"({result['num_validation_rows']} rows)"
        if score is not None
        else "the last prompt was kept: there were no validation rows",
        f"saved in {result['output']}: "
        + ", ".join(f"{name} ({size} bytes)" for name, size in result["files"].items()),
    ]
    return "\n".join(lines)
