"""Facts about the installation, a model or a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["engine_facts", "facts_of"]


def engine_facts() -> dict[str, Any]:
    """Version, CPU path chosen, BLAS and its core, threads."""
    from softprompt import __version__
    from softprompt.model.threads import default_num_threads, engine

    facts = engine().info()
    return {
        "version": __version__,
        "cpu_path": facts["cpu"],
        "blas": facts["blas"],
        "blas_core": facts["blas_core"],
        "cpus": facts["available_cpus"],
        "threads": default_num_threads(),
    }


def facts_of(what: str) -> dict[str, Any]:
    """Facts about a prompt's folder, or else about a model."""
    from softprompt.model.load import load_model
    from softprompt.prompt import SoftPrompt

    if (Path(what) / "adapter_config.json").exists():
        prompt = SoftPrompt.load(what)
        task, base = prompt.task or {}, prompt.base_model or {}
        return {
            "prompt": what,
            "num_virtual_tokens": prompt.num_virtual_tokens,
            "hidden_size": prompt.hidden_size,
            "position": prompt.position,
            "task": task.get("kind"),
            "template": task.get("template"),
            "model": base.get("name_or_path"),
        }
    config = load_model(what).config
    return {
        "model": what,
        "family": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_layers": config.num_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_kv_heads": config.num_kv_heads,
        "intermediate_size": config.intermediate_size,
        "max_positions": config.max_positions,
    }
