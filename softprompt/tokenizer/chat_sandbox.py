"""Renders chat templates in a process of its own: a program that `softprompt.tokenizer.chat` runs.

A template comes with a model from somewhere: it is code. Jinja's sandbox keeps it from reaching
Python's objects, but not from looping for ever or filling the memory with one multiplication, so
that the operating system bounds this process. It reads one JSON object from stdin and writes one to
stdout; it imports nothing of softprompt.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Any

CPU_SECONDS = 5
MEMORY_BYTES = 1024**3
MAX_CHARACTERS = 1024 * 1024


def limit() -> None:
    """Bound time and memory of this process, and keep it from writing files."""
    try:
        import resource
    except ImportError:  # not a POSIX system: the caller's clock is the only bound
        return
    bounds = {
        resource.RLIMIT_CPU: CPU_SECONDS,
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in bounds.items():
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def environment() -> Any:
    """Return Jinja's sandbox with what transformers gives a chat template."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}``: what an assistant wrote; it is rendered as it stands."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    def raise_exception(message: object) -> None:
        raise jinja2.exceptions.TemplateError(str(message))

    def tojson(
        value: object,
        ensure_ascii: bool = False,
        indent: Any = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        # Unlike Jinja's own filter: without HTML's escapes.
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    def strftime_now(format: str) -> str:
        return datetime.now().strftime(format)

    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    sandbox.filters["tojson"] = tojson
    sandbox.globals["raise_exception"] = raise_exception
    sandbox.globals["strftime_now"] = strftime_now
    return sandbox


def main() -> None:
    """Render what stdin asks for."""
    request = json.load(sys.stdin)
    try:
        sandbox = environment()
        limit()
        template = sandbox.from_string(request["template"])
        texts = []
        for content in request["contents"]:
            messages = [{"role": "user", "content": content}]
            text = template.render(
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **request["tokens"],
            )
            if len(text) > MAX_CHARACTERS:
                raise ValueError(f"{len(text)} characters, at most {MAX_CHARACTERS} are taken")
            texts.append(text)
        answer: dict[str, Any] = {"texts": texts}
    except MemoryError:
        answer = {"error": f"it needs more than {MEMORY_BYTES} bytes of memory"}
    except Exception as err:  # a template may raise anything
        answer = {"error": f"{type(err).__name__}: {str(err)[:500]}"}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
