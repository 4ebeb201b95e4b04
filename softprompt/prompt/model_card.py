"""The README.md beside a saved prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .prefix import Prefix
    from .soft_prompt import SoftPrompt

_MARK = (
    "<!-- Written by softprompt, anew with every save. Remove this line to keep your changes. -->"
)
_MARK_WITHIN = 64 * 1024


def is_own_card(path: Path) -> bool:
    """Say whether a README.md is one that `model_card` wrote, and may be replaced.

    Parameters
    ----------
    path : pathlib.Path
        The file.

    Returns
    -------
    bool
        False also where it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return _MARK.encode() in file.read(_MARK_WITHIN)
    except OSError:
        return False


def prefix_card(prefix: Prefix) -> bytes:
    """Describe a prefix in Markdown, as `model_card` describes a prompt.

    Parameters
    ----------
    prefix : Prefix
        The prefix.

    Returns
    -------
    bytes
        UTF-8.
    """
    base_model, task = prefix.base_model or {}, prefix.task or {}
    lines = ["---", "library_name: peft", "tags: [softprompt, prefix-tuning]", "---", _MARK, ""]
    lines += ["# Prefix", ""]
    facts = {
        "virtual tokens": prefix.num_virtual_tokens,
        "layers": prefix.num_layers,
        "base model": base_model.get("name_or_path"),
        "task": task.get("kind"),
        "template": task.get("template"),
    }
    lines += _listed(facts)
    lines += [
        "",
        "Keys and values that stand before a text in every layer of this one model, trained or",
        "left there by a soft prompt. `softprompt.json` has the labels and the training record.",
        "",
        "    import softprompt",
        '    prefix = softprompt.Prefix.load("this folder")',
        "",
        'PEFT loads it too: `PeftModel.from_pretrained(base_model, "this folder")`.',
    ]
    return ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")


def model_card(prompt: SoftPrompt) -> bytes:
    """Describe a prompt in Markdown, with the front matter of a model card.

    Parameters
    ----------
    prompt : SoftPrompt
        The prompt.

    Returns
    -------
    bytes
        UTF-8.
    """
    base_model, task = prompt.base_model or {}, prompt.task or {}
    name = base_model.get("name_or_path")
    lines = ["---", "library_name: peft", "tags: [softprompt, prompt-tuning]", "---", _MARK, ""]
    lines += ["# Soft prompt", ""]
    facts = {
        "virtual tokens": prompt.num_virtual_tokens,
        "hidden size": prompt.hidden_size,
        "position": prompt.position,
        "base model": name,
        "task": task.get("kind"),
        "template": task.get("template"),
    }
    lines += _listed(facts)
    lines += [
        "",
        "`softprompt.json` has the labels and the training record.",
        "",
        "    import softprompt",
        '    prompt = softprompt.SoftPrompt.load("this folder")',
        "",
        'PEFT loads it too: `PeftModel.from_pretrained(base_model, "this folder")`.',
    ]
    if prompt.position != "start":
        lines += [
            "",
            "PEFT always puts the virtual tokens at the start. This prompt stands after the",
            "beginning-of-text token, so PEFT gives other results with it.",
        ]
    return ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")


def _listed(facts: dict[str, object]) -> list[str]:
    """List numbers and texts; what is missing is left out."""
    return [
        f"- {key}: {value if isinstance(value, int) else _code(value)}"
        for key, value in facts.items()
        if isinstance(value, int | str)
    ]


def _code(text: str) -> str:
    """Quote a text as one line of Markdown code."""
    quoted = json.dumps(text, ensure_ascii=False)
    return f"`` {quoted} ``" if "`" in quoted else f"`{quoted}`"
