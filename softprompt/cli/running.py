"""What every command does alike: errors in one line, exit codes, results as text or as JSON."""

from __future__ import annotations

import functools
import json
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import typer

FAILED, INTERRUPTED = 1, 130

_EXPECTED = (ValueError, TypeError, LookupError, OSError, RuntimeError, ImportError, OverflowError)


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that ends with an exit code and one line on stderr where it fails.

    Parameters
    ----------
    command : callable
        With a keyword argument `debug`: True lets exceptions through.

    Returns
    -------
    callable
        Of the same signature.
    """

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        warnings.showwarning = _show_warning
        try:
            command(**arguments)
            sys.stdout.flush()
        except (typer.BadParameter, typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read the output has left; what is buffered must not fail again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(FAILED) from None
        except Exception as err:
            if arguments.get("debug"):
                raise
            print(f"error: {_message(err)}", file=sys.stderr)
            raise SystemExit(FAILED) from None

    return run


def report(result: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print a result on stdout: as one JSON object, or as `text`."""
    print(json.dumps(result, ensure_ascii=False) if as_json else text)


def say(text: str) -> None:
    """Print progress on stderr."""
    print(text, file=sys.stderr, flush=True)


def _message(err: Exception) -> str:
    # str() of a KeyError is the repr of its message.
    text = str(err.args[0]) if isinstance(err, KeyError) and err.args else str(err)
    line = " ".join(text.split())
    if isinstance(err, _EXPECTED):
        return line or type(err).__name__
    return f"{type(err).__name__}: {line} (--debug shows where)"


def _show_warning(message: Any, category: Any, *_: Any, **__: Any) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
