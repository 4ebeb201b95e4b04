"""``softprompt demo``: the whole way on rows that ship with the package, in minutes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from softprompt.cli import models
from softprompt.cli.info import file_sizes
from softprompt.cli.options import Debug, Json, Threads
from softprompt.cli.running import report, say

# The best of six wordings on the validation rows (78 %, the others 37 to 59 %; "Is this message
# spam or ham? Answer:" calls everything spam), so that the soft prompt has no poor one to beat.
TEMPLATE = "Message: {text}\nThis message was sent by a"
LABELS = {"ham": " friend", "spam": " company"}
_EVALUATIONS = 3


def demo(
    steps: Annotated[int, typer.Option(help="Steps of training.")] = 48,
    output: Annotated[Path, typer.Option(help="Folder for the prompt.")] = Path("softprompt-demo"),
    model: Annotated[str, typer.Option(help="Model to tune.")] = "smollm2-135m",
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    threads: Threads = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train on SMS spam, compare with the hand-written prompt, save, and look at the prompt."""
    from softprompt.data import load_sms_spam_demo
    from softprompt.estimators import SoftPromptClassifier
    from softprompt.prompt import neighbors

    started = time.perf_counter()
    if steps < 1:
        raise typer.BadParameter(f"{steps}: expected 1 or more", param_hint="--steps")
    rows = load_sms_spam_demo()
    answers = {split: [row["label"] for row in part] for split, part in rows.items()}
    counts = ", ".join(f"{len(part)} {split}" for split, part in rows.items())
    language_model = models.load(model, threads)
    say(f"rows of the SMS Spam Collection (CC BY 4.0): {counts}\n")

    say(f"1. The prompt written by hand: {TEMPLATE!r}, answered by one of {[*LABELS.values()]}")
    zero_shot = SoftPromptClassifier(
        language_model, template=TEMPLATE, labels=LABELS, num_virtual_tokens=0
    ).fit(rows["train"], answers["train"])
    zero_shot_accuracy = float(zero_shot.score(rows["test"], answers["test"]))
    say(f"   accuracy on the test rows: {zero_shot_accuracy:.1%}\n")

    say(f"2. A soft prompt before it, {steps} steps; the validation rows choose the best")
    tuned = SoftPromptClassifier(
        language_model,
        template=TEMPLATE,
        labels=LABELS,
        max_steps=steps,
        eval_every=max(1, -(-steps // _EVALUATIONS)),
        random_state=seed,
        progress=True,
    ).fit(
        rows["train"],
        answers["train"],
        validation_data=(rows["validation"], answers["validation"]),
    )
    accuracy = float(tuned.score(rows["test"], answers["test"]))
    commonest = max(map(answers["test"].count, LABELS)) / len(answers["test"])
    folder = tuned.prompt_.save(output)
    table = neighbors(tuned.prompt_, language_model, k=3, metric="cosine")
    files = file_sizes(folder)
    result = {
        "rows": {split: len(part) for split, part in rows.items()},
        "steps": tuned.n_iter_,
        "best_step": tuned.best_iter_,
        "validation_accuracy": tuned.best_score_,
        "commonest_class_test_accuracy": commonest,
        "zero_shot_test_accuracy": zero_shot_accuracy,
        "tuned_test_accuracy": accuracy,
        "neighbors": table.to_dict(),
        "output": str(output),
        "files": files,
        "seconds": round(time.perf_counter() - started, 1),
    }
    report(result, _text(result, str(table), model), as_json=as_json)


def _text(result: dict[str, Any], table: str, model: str) -> str:
    files = "\n".join(f"  {size:>8,} bytes  {name}" for name, size in result["files"].items())
    folder = result["output"]
    return f"""
Accuracy on {result["rows"]["test"]} test rows, which chose nothing
  commonest class  {result["commonest_class_test_accuracy"]:.1%}
  written by hand  {result["zero_shot_test_accuracy"]:.1%}
  soft prompt      {result["tuned_test_accuracy"]:.1%}  (best of step {result["best_step"]} by \
{result["rows"]["validation"]} validation rows)

{table}

Saved in {folder}, a PEFT adapter folder
{files}

{result["seconds"]:.0f} s. Go on with
  softprompt info {folder}
  softprompt predict --model {model} --prompt {folder} --data ROWS.jsonl"""
