"""`ModelConfig`: what a model says of itself; `ModelOrigin`: where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from softprompt.families import Spec

__all__ = ["ModelConfig", "ModelOrigin", "gguf_config", "huggingface_config"]


@dataclass(frozen=True)
class ModelConfig:
    """A model's sizes, special tokens and original configuration.

    Attributes
    ----------
    family : str
        Name of the architecture, e.g. "llama" or "gpt2".
    name_or_path : str
        As given to `load_model`.
    vocab_size, hidden_size, num_layers, num_attention_heads, num_kv_heads, head_dim : int
        Sizes.
    intermediate_size, max_positions : int
        Width of the MLP; longest text with its prompt, in rows.
    bos_token_id, pad_token_id : int or None
        Special tokens; None where the model has none within its vocabulary.
    eos_token_ids : tuple of int
        Tokens that end a generated text.
    adds_bos, adds_eos : bool
        Whether the tokenizer puts them around a text.
    tie_word_embeddings : bool
        Whether the output head is the embedding table.
    is_encoder_decoder : bool
        Whether an encoder reads the input, with its prompt, and a decoder writes the target.
        `num_layers` are the decoder's, `vocab_size` is that of the input.
    num_encoder_layers : int
    forced_bos_token_id : int or None
        What every text of the decoder begins with.
    forced_eos_token_id : int or None
        What a text that reaches the greatest length ends with.
    suppressed_token_ids : tuple of int
        What is never generated: single tokens among ``bad_words_ids``, and ``suppress_tokens``.
    decoder_start_token_id : int or None
        What the decoder reads before a target; None without an encoder, and where mBART begins with
        a target's last token, its language.
    raw : dict
        The original config.json, or GGUF metadata without the vocabulary.
    """

    family: str
    name_or_path: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_attention_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    max_positions: int
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    pad_token_id: int | None
    adds_bos: bool
    adds_eos: bool
    tie_word_embeddings: bool
    raw: dict[str, Any] = field(repr=False, compare=False)
    is_encoder_decoder: bool = False
    num_encoder_layers: int = 0
    decoder_start_token_id: int | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    suppressed_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class ModelOrigin:
    """What a pickled model consists of.

    Attributes
    ----------
    name_or_path : str
        A name as given to `load_model`, or the absolute path of a folder or file.
    options : dict
        The other arguments of `load_model`.
    fingerprint : str or None
        Fingerprint that the weights must have, where it is known.
    """

    name_or_path: str
    options: dict[str, Any]
    fingerprint: str | None = None


# Ids that transformers assumes for keys that config.json leaves out.
_LLAMA_IDS = {"bos_token_id": 1, "eos_token_id": 2}
_GPT2_IDS = {"bos_token_id": 50256, "eos_token_id": 50256}
_GEMMA_IDS = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
_COHERE_IDS = {"bos_token_id": 5, "eos_token_id": 255001, "pad_token_id": 0}
_OLMO_IDS = {"eos_token_id": 50279, "pad_token_id": 1}
_FAIRSEQ_IDS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
_DEFAULT_IDS = {
    **dict.fromkeys(("llama", "mistral", "granite", "phi", "bloom"), _LLAMA_IDS),
    **dict.fromkeys(("gpt2", "gpt_neo", "gptj"), _GPT2_IDS),
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3_text"), _GEMMA_IDS),
    **dict.fromkeys(("cohere", "cohere2"), _COHERE_IDS),
    **dict.fromkeys(("olmo", "olmo2"), _OLMO_IDS),
    "smollm3": {"bos_token_id": 128000, "eos_token_id": 128001, "pad_token_id": 128004},
    "phi3": {"bos_token_id": 1, "eos_token_id": 32000, "pad_token_id": 32000},
    "gpt_neox": {"bos_token_id": 0, "eos_token_id": 2},
    "opt": {"bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1},
    "falcon": {"bos_token_id": 11, "eos_token_id": 11},
    "stablelm": {"bos_token_id": 0, "eos_token_id": 0},
    "bart": _FAIRSEQ_IDS | {"decoder_start_token_id": 2},
    "mbart": _FAIRSEQ_IDS,
    "m2m_100": _FAIRSEQ_IDS | {"decoder_start_token_id": 2},
    "marian": {"eos_token_id": 0, "pad_token_id": 58100, "decoder_start_token_id": 58100},
    "t5": {"eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 0},
    "mt5": {"eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 0},
}


def huggingface_config(
    spec: Spec,
    config: Mapping[str, Any],
    generation: Mapping[str, Any],
    *,
    name_or_path: str,
    adds: tuple[bool, bool],
) -> ModelConfig:
    """Build the configuration of a model from a Hugging Face folder.

    Parameters
    ----------
    spec : Spec
        The model.
    config : mapping
        config.json.
    generation : mapping
        generation_config.json (may be empty); its ids go before those of `config`, as in
        transformers' ``generate``.
    name_or_path : str
        As given by the user.
    adds : tuple of bool
        Whether the tokenizer adds the begin and the end token.

    Returns
    -------
    ModelConfig
    """
    defaults = _DEFAULT_IDS.get(config["model_type"], {})
    text = config.get("text_config")  # a model of text and pictures has the ids there or beside it
    text = text if isinstance(text, Mapping) else {}

    def ids(key: str) -> tuple[int, ...]:
        value = generation.get(key)
        if value is None:
            value = config.get(key, text.get(key, defaults.get(key)))
        return _valid_ids(value, spec)

    def first(key: str) -> int | None:
        return next(iter(ids(key)), None) if spec.num_encoder_layers else None

    return _config(
        spec,
        name_or_path=name_or_path,
        bos=ids("bos_token_id"),
        eos=ids("eos_token_id"),
        pad=ids("pad_token_id"),
        adds=adds,
        raw=dict(config),
        is_encoder_decoder=spec.num_encoder_layers > 0,
        num_encoder_layers=spec.num_encoder_layers,
        decoder_start_token_id=first("decoder_start_token_id"),
        forced_bos_token_id=first("forced_bos_token_id"),
        forced_eos_token_id=first("forced_eos_token_id"),
        suppressed_token_ids=_suppressed(generation, config, spec),
    )


def gguf_config(
    spec: Spec, metadata: Mapping[str, Any], *, name_or_path: str, adds: tuple[bool, bool]
) -> ModelConfig:
    """Build the configuration of a model from GGUF metadata; see `huggingface_config`."""

    def ids(*names: str) -> tuple[int, ...]:
        values = (metadata.get(f"tokenizer.ggml.{name}_token_id") for name in names)
        return tuple(i for value in values for i in _valid_ids(value, spec))

    return _config(
        spec,
        name_or_path=name_or_path,
        bos=ids("bos"),
        eos=tuple(dict.fromkeys(ids("eos", "eot", "eom"))),
        pad=ids("padding"),
        adds=adds,
        raw={key: _plain(value) for key, value in metadata.items() if not _is_long(value)},
    )


def _config(
    spec: Spec,
    *,
    name_or_path: str,
    bos: tuple[int, ...],
    eos: tuple[int, ...],
    pad: tuple[int, ...],
    adds: tuple[bool, bool],
    raw: dict[str, Any],
    **of_encoder: Any,
) -> ModelConfig:
    return ModelConfig(
        family=spec.family,
        name_or_path=name_or_path,
        vocab_size=spec.encoder_vocab_size or spec.vocab_size,
        hidden_size=spec.hidden_size,
        num_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        intermediate_size=spec.intermediate_size,
        max_positions=spec.max_positions,
        bos_token_id=bos[0] if bos else None,
        eos_token_ids=eos,
        pad_token_id=pad[0] if pad else None,
        adds_bos=adds[0],
        adds_eos=adds[1],
        tie_word_embeddings=spec.tied,
        raw=raw,
        **of_encoder,
    )


def _suppressed(
    generation: Mapping[str, Any], config: Mapping[str, Any], spec: Spec
) -> tuple[int, ...]:
    """Return tokens that are never generated: Marian must not write its padding."""
    found: list[int] = []
    for key in ("bad_words_ids", "suppress_tokens"):
        value = generation.get(key)
        value = config.get(key) if value is None else value
        for entry in value if isinstance(value, list) else ():
            alone = entry[0] if isinstance(entry, list) and len(entry) == 1 else entry
            found += _valid_ids(alone, spec) if isinstance(alone, int) else ()
    return tuple(dict.fromkeys(found))


def _is_long(value: Any) -> bool:
    """Say whether a value of GGUF metadata is a part of the vocabulary, by its length."""
    return not isinstance(value, (str, int, float)) and len(value) > 4096


def _plain(value: Any) -> Any:
    """Return numbers, texts and lists, which live without the mapped file."""
    if isinstance(value, (str, int, float)):
        return value
    return value.tolist() if isinstance(value, np.ndarray) else [_plain(item) for item in value]


def _valid_ids(value: Any, spec: Spec) -> tuple[int, ...]:
    """Return the ids of a key that holds one or a list; configurations name absent tokens too."""
    values = value if isinstance(value, (list, tuple)) else (value,)
    return tuple(
        int(i)
        for i in values
        if isinstance(i, (int, np.integer)) and not isinstance(i, bool) and 0 <= i < spec.vocab_size
    )
