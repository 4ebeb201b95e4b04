"""``softprompt info``: what runs here, and facts about a model or a saved prompt."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Annotated, Any

import typer

from softprompt._version import __version__
from softprompt.cli.options import Debug, Json
from softprompt.cli.running import report


def info(
    target: Annotated[
        str | None,
        typer.Argument(help="Any prompt's file or folder; or a model's name or path."),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show version, CPU path, BLAS and threads; with a model or prompt, facts about it."""
    from softprompt.model.threads import default_num_threads, engine

    facts = engine().info()
    result: dict[str, Any] = {
        "softprompt": __version__,
        "python": platform.python_version(),
        "cpu": facts["cpu"],
        "blas": facts["blas"],
        "blas_core": facts["blas_core"],
        "available_cpus": facts["available_cpus"],
        "num_threads": default_num_threads(),
    }
    text = _lines(result)
    if target is not None:
        kind, about = _about(target)
        result[kind] = about
        text += f"\n\n{kind} {target}\n" + _lines(about)
    report(result, text, as_json=as_json)


def _about(target: str) -> tuple[str, dict[str, Any]]:
    from softprompt.prompt import is_prompt

    if is_prompt(target):
        return "prompt", _about_prompt(Path(target))
    return "model", _about_model(target)


def _about_prompt(path: Path) -> dict[str, Any]:
    from softprompt.prompt import describe

    files = file_sizes(path)
    return {**describe(path), "files": files, "bytes": sum(files.values())}


_OF_ENCODER = ("num_encoder_layers", "decoder_start_token_id", "forced_bos_token_id")


def _about_model(name: str) -> dict[str, Any]:
    from softprompt.model.load import load_model

    model = load_model(name)
    config = model.config
    names = (
        "family", "vocab_size", "hidden_size", "num_layers", "num_attention_heads", "num_kv_heads",
        "head_dim", "intermediate_size", "max_positions", "bos_token_id", "tie_word_embeddings",
    )  # fmt: skip
    return {
        **{key: getattr(config, key) for key in names},
        "eos_token_ids": list(config.eos_token_ids),
        **({key: getattr(config, key) for key in _OF_ENCODER} if config.is_encoder_decoder else {}),
        "weight_bytes": model.weight_bytes,
        "tokenizer": model.tokenizer is not None,
        "fingerprint": model.fingerprint,
    }


def file_sizes(path: Path) -> dict[str, int]:
    """Return the bytes of a file, or of every file of a folder, by name."""
    paths = sorted(path.iterdir()) if path.is_dir() else [path]
    return {path.name: path.stat().st_size for path in paths if path.is_file()}


def _lines(facts: dict[str, Any], indent: str = "") -> str:
    width = max(map(len, facts), default=0)
    lines = []
    for key, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}", _lines(value, indent + "  ")]
        else:
            shown = repr(value) if isinstance(value, str) and "\n" in value else value
            lines.append(f"{indent}{key:<{width}}  {shown}")
    return "\n".join(lines)
