"""Tiny random folders of all families with an encoder, as `decoders` has those without.

Sizes are uneven, encoder and decoder have different numbers of layers, texts are longer than the
distances that have buckets of their own, norms' weights lie away from 1 and biases away from 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_T5 = {
    "vocab_size": 61,
    "d_model": 20,
    "d_kv": 6,
    "d_ff": 33,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 11,
    "is_encoder_decoder": True,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
_BART = {
    "vocab_size": 67,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 37,
    "decoder_ffn_dim": 37,
    "max_position_embeddings": 48,
    "is_encoder_decoder": True,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}

CONFIGS: dict[str, dict] = {
    # T5 1.0 names no tie_word_embeddings: tied and scaled.
    "t5": _T5 | {"model_type": "t5", "feed_forward_proj": "relu", "n_positions": 512},
    # FLAN-T5 and the LM-adapted T5 1.1
    "t5-gated": _T5
    | {
        "model_type": "t5",
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "num_layers": 2,
        "num_decoder_layers": 3,
        "num_heads": 2,
        "d_kv": 9,
        "layer_norm_epsilon": 1e-3,
    },
    "t5-version5": _T5
    | {
        "model_type": "t5",
        "feed_forward_proj": "gated-silu",
        "scale_decoder_outputs": False,
        "tie_word_embeddings": True,
        "num_decoder_layers": None,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
    },
    "mt5": _T5 | {"model_type": "mt5", "tie_word_embeddings": False},
    "mt5-relu": _T5
    | {"model_type": "mt5", "feed_forward_proj": "relu", "num_layers": 1, "d_model": 15},
    "bart": _BART | {"model_type": "bart"},
    "bart-scaled": _BART
    | {
        "model_type": "bart",
        "scale_embedding": True,
        "activation_function": "relu",
        "encoder_layers": 1,
        "decoder_layers": 1,
        "d_model": 21,
        "decoder_start_token_id": 0,
    },
    "mbart": _BART | {"model_type": "mbart", "scale_embedding": True, "decoder_start_token_id": 5},
    "mbart-own-start": {
        key: value
        for key, value in (
            _BART
            | {
                "model_type": "mbart",
                "encoder_layers": 3,
                "decoder_layers": 1,
                "activation_function": "gelu_new",
            }
        ).items()
        if key != "decoder_start_token_id"
    },
    "marian": _BART
    | {
        "model_type": "marian",
        "activation_function": "silu",
        "decoder_start_token_id": 66,
        "pad_token_id": 66,
        "eos_token_id": 0,
    },
    "marian-scaled": _BART
    | {
        "model_type": "marian",
        "scale_embedding": True,
        "activation_function": "swish",
        "d_model": 20,
        "encoder_attention_heads": 5,
        "decoder_attention_heads": 5,
        "decoder_start_token_id": 66,
        "pad_token_id": 66,
        "eos_token_id": 0,
    },
    "marian-two-embeddings": _BART
    | {
        "model_type": "marian",
        "share_encoder_decoder_embeddings": False,
        "decoder_vocab_size": 59,
        "activation_function": "relu",
        "decoder_start_token_id": 58,
        "pad_token_id": 58,
        "eos_token_id": 0,
    },
    "m2m_100": _BART | {"model_type": "m2m_100"},
    "m2m_100-unscaled": _BART
    | {
        "model_type": "m2m_100",
        "scale_embedding": False,
        "activation_function": "gelu",
        "d_model": 22,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_layers": 3,
        "decoder_layers": 2,
    },
}


def vocabularies(config: Mapping) -> tuple[int, int]:
    """Sizes of the input's and of the target's vocabulary."""
    return config["vocab_size"], config.get("decoder_vocab_size") or config["vocab_size"]


def examples(config: Mapping, seed: int = 1) -> list[tuple[list[int], list[int]]]:
    """A batch of uneven length without padding tokens: two targets of one input, common beginnings,
    one input of one token, one of 21.
    """
    random = np.random.RandomState(seed)
    inputs, targets = vocabularies(config)

    def ids(count: int, vocab: int) -> list[int]:
        drawn = (random.random_sample(count) * (vocab - 4)).astype(int) + 2
        return drawn.tolist()

    first, start = ids(7, inputs), ids(3, targets)
    return [
        (first, start + ids(4, targets)),
        (first, start + ids(1, targets)),
        (ids(1, inputs), ids(2, targets)),
        (first[:4] + ids(2, inputs), ids(1, targets)),
        (ids(21, inputs), ids(17, targets)),
    ]


def prompt(config: Mapping, rows: int, seed: int = 2) -> np.ndarray:
    """A prompt `[rows, d]` float32 at the scale of the embeddings."""
    random = np.random.RandomState(seed + rows)
    return (2.0 * random.random_sample((rows, config["d_model"])) - 1.0).astype(np.float32)


def decoder_start(config: Mapping, target_ids: list[int]) -> int:
    """What the decoder reads first; mBART without a start token the target's last one."""
    return config.get("decoder_start_token_id", target_ids[-1])
