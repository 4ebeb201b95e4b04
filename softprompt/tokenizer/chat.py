"""Chat templates: what a chat model wants to see around the user's text."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_TEMPLATE_CHARACTERS = 1024 * 1024
_SECONDS = 120  # by the clock; the process's own limit counts the time that it computes
_SANDBOX = Path(__file__).with_name("chat_sandbox.py")
# A text that no template writes of itself, and what it is put between to see whether it stays.
_MARK = "softprompt0user0turn"
_BEFORE, _AFTER = " \n", "\n "


@dataclass(frozen=True)
class ChatFrame:
    """A conversation of one user's turn, up to where the model's answer begins.

    Attributes
    ----------
    before, after : str
        What stands around the user's text, the generation prompt included.
    strips : bool
        Whether white space around the user's text is taken off.
    """

    before: str
    after: str
    strips: bool = False

    def around(self, text: str) -> str:
        """Return the conversation with `text` as the user's turn."""
        return self.before + (text.strip() if self.strips else text) + self.after

    def record(self) -> dict[str, Any]:
        """Return the frame as JSON values."""
        return {"before": self.before, "after": self.after, "strips": self.strips}

    @classmethod
    def from_record(cls, record: object) -> ChatFrame:
        """Return the frame of a record.

        Raises
        ------
        ValueError
            It is none.
        """
        kinds = {"before": str, "after": str, "strips": bool}
        fits = isinstance(record, Mapping) and set(record) == set(kinds)
        if not fits or not all(isinstance(record[key], kind) for key, kind in kinds.items()):
            raise ValueError(
                f"the chat frame is {str(record)[:200]}, expected texts before and after, and "
                "strips as true or false"
            )
        return cls(**record)


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template in Jinja, as Hugging Face folders and GGUF files have it.

    Attributes
    ----------
    text : str
        The template.
    tokens : mapping of str to str
        Texts of special tokens by their names ("bos_token"), which it may use.
    where : str
        The file that it is from, for messages.
    """

    text: str
    tokens: Mapping[str, str] = field(default_factory=dict)
    where: str = "chat_template"

    def frame(self) -> ChatFrame:
        """Return what the template puts around a user's text.

        The template runs in Jinja's sandbox in a process with bounds of time and memory. The
        variables are those of transformers' ``apply_chat_template`` with
        ``add_generation_prompt=True``.

        Returns
        -------
        ChatFrame

        Raises
        ------
        ImportError
            The package jinja2 is not installed.
        ValueError
            The template fails, takes too much time or memory, or does not write the user's text
            once and as it stands.
        """
        plain, spaced = self._render([_MARK, _BEFORE + _MARK + _AFTER])
        if plain.count(_MARK) != 1:
            raise ValueError(
                f"{self.where}: the chat template writes the user's text {plain.count(_MARK)} "
                "times, expected once and as it stands"
            )
        before, _, after = plain.partition(_MARK)
        for strips in (False, True):
            frame = ChatFrame(before, after, strips)
            if spaced == frame.around(_BEFORE + _MARK + _AFTER):
                return frame
        raise ValueError(
            f"{self.where}: the chat template changes the user's text, expected it as it stands "
            "or with the white space around it taken off"
        )

    def _render(self, contents: list[str]) -> list[str]:
        """Return the conversation for each text of a user."""
        if importlib.util.find_spec("jinja2") is None:
            raise ImportError(
                "a chat template needs the package jinja2: pip install 'softprompt[chat]'"
            )
        if len(self.text) > MAX_TEMPLATE_CHARACTERS:
            raise ValueError(
                f"{self.where}: the chat template has {len(self.text)} characters, at most "
                f"{MAX_TEMPLATE_CHARACTERS} are read"
            )
        request = {"template": self.text, "tokens": dict(self.tokens), "contents": contents}
        try:
            done = subprocess.run(
                [sys.executable, "-P", str(_SANDBOX)],
                input=json.dumps(request),
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as err:
            raise ValueError(
                f"{self.where}: the chat template took more than {_SECONDS} seconds"
            ) from err
        if done.returncode != 0:
            raise ValueError(f"{self.where}: the chat template {_why(done)}")
        answer = json.loads(done.stdout)
        if "error" in answer:
            raise ValueError(f"{self.where}: the chat template failed: {answer['error']}")
        return answer["texts"]


def _why(done: subprocess.CompletedProcess) -> str:
    """Say why the process that rendered a template ended without an answer."""
    if -done.returncode in (signal.SIGKILL, getattr(signal, "SIGXCPU", None)):
        return "took too much time"
    if done.returncode < 0:
        return f"ended its process by the signal {-done.returncode}"
    lines = done.stderr.strip().splitlines()
    return f"could not be rendered: {lines[-1][:300] if lines else 'no message'}"
