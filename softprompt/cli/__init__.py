"""The command ``softprompt``: train, evaluate, predict, generate and what looks at prompts.

Results go to stdout, with ``--json`` as one JSON object and nothing else; progress, warnings and
errors go to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line of this process and exit with its code."""
    from softprompt.cli.app import app

    app(prog_name="softprompt")
