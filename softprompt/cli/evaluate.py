"""``softprompt evaluate`` and ``predict``: with a saved prompt, or with the template alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from softprompt.cli.labels import as_classes, class_name, labels_for, parse_labels
from softprompt.cli.models import load_prompt, model_for
from softprompt.cli.options import (
    Chat,
    Data,
    Debug,
    Form,
    Json,
    LabelField,
    LabelTexts,
    MemoryLimit,
    ModelName,
    PromptFolder,
    TargetField,
    TemplateText,
    Threads,
    Weights,
)
from softprompt.cli.rows import column, read_rows, write_json_lines
from softprompt.cli.running import report, say

Examples = Annotated[
    int, typer.Option(help="Zero-shot: rows of --examples-from shown before every text.")
]
ExamplesFrom = Annotated[
    Path | None, typer.Option(help="Labelled rows from which --examples are drawn.")
]
Output = Annotated[
    Path | None, typer.Option(help="JSONL file for the rows with their predictions.")
]
Seed = Annotated[int, typer.Option(help="Decides which examples are drawn.")]


def evaluate(
    data: Data,
    prompt: PromptFolder = None,
    model: ModelName = None,
    template: TemplateText = None,
    labels: LabelTexts = None,
    label_field: LabelField = "label",
    target_field: TargetField = None,
    metric: Annotated[str | None, typer.Option(help="Text to text: exact_match or rougeL.")] = None,
    examples: Examples = 0,
    examples_from: ExamplesFrom = None,
    chat: Chat = False,
    seed: Seed = 0,
    threads: Threads = None,
    weights: Weights = Form.stored,
    memory_limit: MemoryLimit = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score predictions for labelled rows."""
    rows = read_rows(data)
    estimator = _estimator(
        rows, prompt, model, template, labels, label_field, target_field, examples, examples_from,
        chat, seed, threads, data=data, labelled=True, weights=weights.value,
        memory_limit=memory_limit,
    )  # fmt: skip
    is_classifier = hasattr(estimator, "classes_")
    field = label_field if is_classifier else (target_field or "target")
    y = column(rows, field, data)
    say(f"scoring {len(rows)} rows ...")
    result: dict[str, Any] = {
        "rows": len(rows),
        "prompt": None if prompt is None else str(prompt),
    }
    if is_classifier:
        if metric not in (None, "accuracy"):
            raise typer.BadParameter(f"{metric!r}: classes have accuracy", param_hint="--metric")
        result |= _classification(estimator, rows, as_classes(y, estimator.classes_.tolist()))
    else:
        metric = metric or estimator.metric
        result |= {"metric": metric, "score": estimator.score(rows, y, metric=metric)}
    text = f"{result['metric']} {result['score']:.4f} on {len(rows)} rows"
    for name, counts in result.get("classes", {}).items():
        text += f"\n  {name}: {counts['correct']} of {counts['rows']} rows"
    report(result, text, as_json=as_json)


def predict(
    data: Data,
    prompt: PromptFolder = None,
    model: ModelName = None,
    template: TemplateText = None,
    labels: LabelTexts = None,
    label_field: LabelField = "label",
    target_field: TargetField = None,
    examples: Examples = 0,
    examples_from: ExamplesFrom = None,
    chat: Chat = False,
    seed: Seed = 0,
    output: Output = None,
    threads: Threads = None,
    weights: Weights = Form.stored,
    memory_limit: MemoryLimit = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Predict classes or texts for rows, one a line."""
    rows = read_rows(data)
    estimator = _estimator(
        rows, prompt, model, template, labels, label_field, target_field, examples, examples_from,
        chat, seed, threads, data=data, labelled=False, weights=weights.value,
        memory_limit=memory_limit,
    )  # fmt: skip
    say(f"predicting {len(rows)} rows ...")
    if hasattr(estimator, "classes_"):
        probabilities = estimator.predict_proba(rows)
        classes = estimator.classes_.tolist()
        names = [class_name(value) for value in classes]
        predictions = [
            {
                "prediction": classes[values.argmax()],
                "probabilities": dict(zip(names, map(float, values), strict=True)),
            }
            for values in probabilities
        ]
    else:
        predictions = [{"prediction": text} for text in estimator.predict(rows)]
    if output is not None:
        write_json_lines(output, ({**r, **p} for r, p in zip(rows, predictions, strict=True)))
    report(
        {"rows": len(rows), "predictions": predictions},
        "\n".join(class_name(each["prediction"]) for each in predictions),
        as_json=as_json,
    )


def _classification(estimator: Any, rows: Sequence[Any], y: list[Any]) -> dict[str, Any]:
    classes = estimator.classes_.tolist()
    for number, value in enumerate(y):
        if value not in classes:
            raise ValueError(f"row {number} has the class {value!r}, expected one of {classes}")
    predicted = estimator.predict(rows).tolist()
    correct = [a == b for a, b in zip(predicted, y, strict=True)]
    return {
        "metric": "accuracy",
        "score": sum(correct) / len(y),
        "classes": {
            class_name(each): {
                "rows": y.count(each),
                "correct": sum(ok for ok, value in zip(correct, y, strict=True) if value == each),
            }
            for each in classes
        },
    }


def _estimator(
    rows: list[dict[str, Any]],
    folder: Path | None,
    model: str | None,
    template: str | None,
    labels: str | None,
    label_field: str,
    target_field: str | None,
    examples: int,
    examples_from: Path | None,
    chat: bool,
    seed: int,
    threads: int | None,
    *,
    data: Path,
    labelled: bool,
    **options: Any,
) -> Any:
    """Return a fitted estimator: of a saved prompt, or of the hand-written one."""
    from softprompt.estimators import SoftPromptClassifier, SoftPromptGenerator

    if folder is not None:
        saved = (("--template", template), ("--labels", labels), ("--chat", chat or None))
        for hint, value in saved:
            if value is not None:
                raise typer.BadParameter("is saved with the prompt", param_hint=hint)
        soft_prompt = load_prompt(folder)
        kind = (soft_prompt.task or {}).get("kind")
        cls = SoftPromptGenerator if kind == "text-to-text" else SoftPromptClassifier
        return cls.from_prompt(soft_prompt, model_for(model, [soft_prompt], threads, **options))
    if template is None:
        raise typer.BadParameter("needed without --prompt", param_hint="--template")
    if (examples > 0) != (examples_from is not None):
        raise typer.BadParameter("goes with --examples-from", param_hint="--examples")
    template = template.replace("\\n", "\n")
    names = parse_labels(labels, template) if labels else None
    known = read_rows(examples_from) if examples_from else rows
    field = target_field or label_field
    parameters = {
        "template": template, "num_virtual_tokens": 0, "examples": examples, "random_state": seed,
        "chat_template": chat or None,
    }  # fmt: skip
    if examples_from or labelled:
        y = column(known, field, examples_from or data)
    elif target_field:
        y = ["-"] * len(rows)  # nothing is learned from them
    elif names is None:
        raise typer.BadParameter("needed without --prompt", param_hint="--labels")
    else:
        y = [next(iter(names))] * len(rows)
    language_model = model_for(model, [], threads, **options)
    if target_field:
        return SoftPromptGenerator(language_model, **parameters).fit(known, y)
    classifier = SoftPromptClassifier(language_model, labels=labels_for(names, y), **parameters)
    return classifier.fit(known, y)
