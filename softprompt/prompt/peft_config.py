"""PEFT's `adapter_config.json` for prompts and prefixes: written, and read with checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CONFIG_MAX_BYTES = 1024 * 1024
MAX_VIRTUAL_TOKENS = 1_000_000

# The first version with this set of keys. Later ones fill in what they add.
_KEYS_OF_PEFT = "0.18.0"
_KEYS_OF_CARTRIDGE = "0.19.0"
_PEFT_TYPE = "PROMPT_TUNING"
# P-tuning's encoder runs before PEFT saves: what is in the file is a prompt like any other.
_READ_TYPES = (_PEFT_TYPE, "P_TUNING")
PREFIX_TYPES = ("PREFIX_TUNING", "CARTRIDGE")
_SEQ2SEQ = "SEQ_2_SEQ_LM"
_TASK_TYPES = ("CAUSAL_LM", _SEQ2SEQ, "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION")


def peft_config(
    num_virtual_tokens: int,
    hidden_size: int,
    training: Mapping[str, object] | None,
    base_model: Mapping[str, object] | None,
) -> dict[str, object]:
    """Build the configuration that PEFT loads a prompt with.

    Parameters
    ----------
    num_virtual_tokens, hidden_size : int
        Shape of the prompt.
    training : mapping, optional
        `init` of `{"text": ...}` is recorded as a TEXT start, if `base_model` names its tokenizer
        in `tokenizer_name_or_path`. PEFT refuses to load a TEXT start without both; any other is
        RANDOM.
    base_model : mapping, optional
        `name_or_path`, `revision`, `num_layers`, `num_attention_heads`, `task_type` are recorded.

    Returns
    -------
    dict
        All fields of `PromptTuningConfig`, as after `save_pretrained`.
    """
    base_model = base_model or {}

    def fact(key: str, kind: type) -> object:
        value = base_model.get(key)
        return value if type(value) is kind else None

    init = (training or {}).get("init")
    text = init.get("text") if isinstance(init, Mapping) else None
    tokenizer = fact("tokenizer_name_or_path", str)
    has_text_start = isinstance(text, str) and bool(tokenizer)
    task_type = base_model.get("task_type")
    return {
        "auto_mapping": None,
        "base_model_name_or_path": fact("name_or_path", str),
        "inference_mode": True,
        "modules_to_save": None,
        "num_attention_heads": fact("num_attention_heads", int),
        "num_layers": fact("num_layers", int),
        # One even for encoder-decoder models: only the encoder's rows are stored.
        "num_transformer_submodules": 1,
        "num_virtual_tokens": num_virtual_tokens,
        "peft_type": _PEFT_TYPE,
        "peft_version": _KEYS_OF_PEFT,
        "prompt_tuning_init": "TEXT" if has_text_start else "RANDOM",
        "prompt_tuning_init_text": text if has_text_start else None,
        "revision": fact("revision", str),
        "task_type": task_type if task_type in _TASK_TYPES else "CAUSAL_LM",
        "token_dim": hidden_size,
        "tokenizer_kwargs": None,
        "tokenizer_name_or_path": tokenizer if has_text_start else None,
    }


def prefix_config(
    peft_type: str,
    num_virtual_tokens: int,
    num_layers: int,
    num_kv_heads: int,
    head_dim: int,
    base_model: Mapping[str, object] | None,
) -> dict[str, object]:
    """Build the configuration that PEFT loads a prefix with.

    Parameters
    ----------
    peft_type : {"PREFIX_TUNING", "CARTRIDGE"}
        As what: the tensor is the same, CARTRIDGE (PEFT 0.19) trains keys and values directly.
    num_virtual_tokens, num_layers, num_kv_heads, head_dim : int
        Shape of the prefix.
    base_model : mapping, optional
        `name_or_path` and `revision` are recorded.

    Returns
    -------
    dict
        All fields of `PrefixTuningConfig` or `CartridgeConfig`, as after `save_pretrained`.
    """
    base_model = base_model or {}
    name, revision = (base_model.get(key) for key in ("name_or_path", "revision"))
    width = num_kv_heads * head_dim
    config = {
        "auto_mapping": None,
        "base_model_name_or_path": name if isinstance(name, str) else None,
        "inference_mode": True,
        "modules_to_save": None,
        # PEFT's words for the heads of keys and values, and for their width in all
        "num_attention_heads": num_kv_heads,
        "num_layers": num_layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": num_virtual_tokens,
        "peft_type": peft_type,
        "peft_version": _KEYS_OF_CARTRIDGE if peft_type == "CARTRIDGE" else _KEYS_OF_PEFT,
        "revision": revision if isinstance(revision, str) else None,
        "task_type": "CAUSAL_LM",
        "token_dim": width,
    }
    if peft_type == "CARTRIDGE":
        return {**config, "num_frozen_tokens": 1}
    return {**config, "encoder_hidden_size": width, "prefix_projection": False}


def read_prefix_config(config: object, where: str) -> tuple[int, int, int, int]:
    """Check a parsed `adapter_config.json` of a prefix.

    Parameters
    ----------
    config : object
        What the JSON gave.
    where : str
        The file, for messages.

    Returns
    -------
    num_virtual_tokens, num_layers, num_kv_heads, head_dim : int

    Raises
    ------
    ValueError
        If it is of another kind, for an encoder and a decoder, or a count is missing, no integer or
        out of range.
    """
    if not isinstance(config, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(config).__name__}")
    kind = config.get("peft_type")
    if kind not in PREFIX_TYPES:
        raise ValueError(f"{where}: peft_type {_short(kind)}, expected {' or '.join(PREFIX_TYPES)}")
    limits = {
        "num_virtual_tokens": MAX_VIRTUAL_TOKENS,
        "num_layers": 2**16,
        "num_attention_heads": 2**16,
        "token_dim": 2**31 - 1,
    }
    counts = {key: _count(config, key, where, limit) for key, limit in limits.items()}
    for key, count in counts.items():
        if count is None:
            raise ValueError(f"{where}: {key} is missing, expected an integer from 1")
    tokens, layers, heads, width = counts.values()
    if width % heads:
        raise ValueError(f"{where}: token_dim {width} is no multiple of {heads} heads")
    if _count(config, "num_transformer_submodules", where, 2) == 2:
        raise ValueError(f"{where}: a prefix for an encoder and a decoder, expected a decoder's")
    return tokens, layers, heads, width // heads


@dataclass(frozen=True)
class PeftFacts:
    """What an `adapter_config.json` says about a prompt.

    Attributes
    ----------
    num_virtual_tokens : int
    token_dim : int or None
        Width of a row, where it is given.
    possible_rows : tuple of int
        How many rows the tensor may have: PEFT stores unused rows for a decoder, too.
    config : dict
        The whole configuration.
    """

    num_virtual_tokens: int
    token_dim: int | None
    possible_rows: tuple[int, ...]
    config: dict

    def base_model(self) -> dict[str, object] | None:
        """Return the facts about the base model, as `SoftPrompt.base_model` has them."""
        names = {
            "name_or_path": ("base_model_name_or_path", str),
            "revision": ("revision", str),
            "hidden_size": ("token_dim", int),
            "num_layers": ("num_layers", int),
            "num_attention_heads": ("num_attention_heads", int),
            "task_type": ("task_type", str),
        }
        facts = {
            ours: self.config[theirs]
            for ours, (theirs, kind) in names.items()
            if type(self.config.get(theirs)) is kind
        }
        return facts or None


def read_peft_config(config: object, where: str) -> PeftFacts:
    """Check a parsed `adapter_config.json`.

    Parameters
    ----------
    config : object
        What the JSON gave.
    where : str
        The file, for messages.

    Returns
    -------
    PeftFacts

    Raises
    ------
    ValueError
        If it is of another kind than prompt tuning or P-tuning, or a count is missing, no integer
        or out of range.
    """
    if not isinstance(config, dict):
        raise ValueError(f"{where}: expected a JSON object, got {type(config).__name__}")
    kind = config.get("peft_type")
    if kind not in _READ_TYPES:
        hint = " (softprompt.Prefix.load reads it)" if kind in PREFIX_TYPES else ""
        raise ValueError(
            f"{where}: peft_type {_short(kind)}, expected '{_PEFT_TYPE}' or 'P_TUNING'{hint}"
        )
    tokens = _count(config, "num_virtual_tokens", where, MAX_VIRTUAL_TOKENS)
    if tokens is None:
        raise ValueError(f"{where}: num_virtual_tokens is missing, expected an integer from 1")
    submodules = _count(config, "num_transformer_submodules", where, 2)
    task_type = config.get("task_type")
    if task_type is not None and task_type not in _TASK_TYPES:
        raise ValueError(
            f"{where}: task_type {_short(task_type)}, expected one of {', '.join(_TASK_TYPES)}"
        )
    if submodules is not None:
        possible = (tokens * submodules,)
    else:
        possible = (tokens, 2 * tokens) if task_type == _SEQ2SEQ else (tokens,)
    return PeftFacts(tokens, _count(config, "token_dim", where, 2**31 - 1), possible, config)


def _count(config: dict, key: str, where: str, limit: int) -> int | None:
    value = config.get(key)
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= limit:
        raise ValueError(f"{where}: {key} {_short(value)}, expected an integer from 1 to {limit}")
    return value


def _short(value: object) -> str:
    if type(value) is int and abs(value) >= 10**30:
        return f"of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."
