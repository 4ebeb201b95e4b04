"""Models from a twin's spec and weights, without files; and a tokenizer of characters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from reference.twin import Twin

from softprompt import _core
from softprompt.families.spec import Spec
from softprompt.model.config import ModelConfig, ModelOrigin
from softprompt.model.load import reload_model
from softprompt.model.model import Model


class CharTokenizer:
    """A token is a character: id `i` is U+4E00 + i; other characters fall on some id above 2."""

    FIRST = 0x4E00

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        offsets = (ord(character) - self.FIRST for character in text)
        return [i if 0 <= i < self.vocab_size else 3 + i % (self.vocab_size - 3) for i in offsets]

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(chr(self.FIRST + i) for i in ids)


def engine_model(twin: Twin, *, bos_token_id: int | None = None) -> Model:
    """The engine's model with a twin's spec and weights."""
    spec = Spec(**twin.spec, family="test", tied="head.weight" not in twin.weights)
    weights = {name: np.ascontiguousarray(w, dtype=np.float32) for name, w in twin.weights.items()}
    config = ModelConfig(
        family="test",
        name_or_path="test",
        vocab_size=spec.encoder_vocab_size or spec.vocab_size,
        hidden_size=spec.hidden_size,
        num_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        intermediate_size=spec.intermediate_size,
        max_positions=spec.max_positions,
        bos_token_id=bos_token_id,
        eos_token_ids=(),
        pad_token_id=None,
        adds_bos=False,
        adds_eos=False,
        tie_word_embeddings=spec.tied,
        raw={},
        is_encoder_decoder=spec.num_encoder_layers > 0,
        num_encoder_layers=spec.num_encoder_layers,
        decoder_start_token_id=getattr(twin, "start", None),
    )
    return Model(
        core=_core.Model(spec.engine_dict(), weights),
        weights=weights,
        spec=spec,
        config=config,
        tokenizer=None,
        origin=ModelOrigin(name_or_path="test", options={}, fingerprint=None),
        reload=reload_model,
        num_threads=None,
        memory_limit=None,
    )


@contextmanager
def without_sharing(model: Model) -> Iterator[None]:
    """Every sequence alone, the prompt included, while the block runs."""
    model._share = False
    try:
        yield
    finally:
        model._share = True
