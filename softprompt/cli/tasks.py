"""The task that options or a saved prompt describe, as an estimator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from softprompt.formats.bounded_json import parse_json

__all__ = ["match_answers", "parse_labels", "saved_task", "zero_shot"]


def parse_labels(text: str | None) -> dict[Any, str] | None:
    """Read ``ham= ham,spam= spam`` or a JSON object ``{"ham": " ham"}``.

    Raises
    ------
    ValueError
        Neither of the two.
    """
    if text is None:
        return None
    if text.lstrip().startswith("{"):
        labels = parse_json(text.encode(), where="--labels")
        if not isinstance(labels, dict) or not all(isinstance(t, str) for t in labels.values()):
            raise ValueError(f"--labels {text!r}: expected an object of texts")
        return labels
    pairs = [item.partition("=") for item in text.split(",")]
    if not all(sign for _, sign, _ in pairs):
        raise ValueError(f"--labels {text!r}: expected class=text,class=text or a JSON object")
    return {name.strip(): label for name, _, label in pairs}


def match_answers(answers: list[Any], classes: Any) -> list[Any]:
    """Answers as the classes are typed: a CSV file has "1" where the class is 1."""
    by_text = {str(item): item for item in classes}
    return [by_text.get(str(answer), answer) for answer in answers]


def saved_task(folder: Path, model: Any) -> Any:
    """Return the fitted estimator that a saved prompt describes."""
    from softprompt.estimators import SoftPromptClassifier, SoftPromptGenerator
    from softprompt.prompt import SoftPrompt

    prompt = SoftPrompt.load(folder)
    kind = (prompt.task or {}).get("kind")
    if kind == "classification":
        return SoftPromptClassifier.from_prompt(prompt, model)
    if kind == "text-to-text":
        return SoftPromptGenerator.from_prompt(prompt, model)
    raise ValueError(
        f"{folder}: the prompt does not say what task it is for (kind {kind!r}); "
        "use `softprompt generate` with it"
    )


def zero_shot(model: Any, template: str, labels: dict[Any, str] | None, rows: list, answers: list):
    """Return the hand-written prompt as a fitted classifier."""
    from softprompt.estimators import SoftPromptClassifier

    classifier = SoftPromptClassifier(model, template=template, labels=labels, num_virtual_tokens=0)
    return classifier.fit(rows, answers)
