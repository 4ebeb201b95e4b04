"""config.json and tensors of the families with an encoder: what is read, what stands for what, and
what is refused.
"""

from __future__ import annotations

import json
import math

import decoders
import numpy as np
import pairs
import pytest
from safetensors.numpy import load_file, save_file

import softprompt
from softprompt.families import read_config
from softprompt.families.relative import Relative
from softprompt.families.sinusoid import Sinusoid


def read(name, **changes):
    return read_config(pairs.CONFIGS[name] | changes, "config.json")


def test_t5_scales_before_a_tied_head_alone():
    assert read("t5").logit_scale == 20**-0.5
    assert read("t5-gated").logit_scale == 1.0
    assert read("t5-version5").logit_scale == 1.0
    assert read("t5-version5", scale_decoder_outputs=True).logit_scale == 20**-0.5
    assert read("mt5").logit_scale == 1.0


def test_t5_s_mlp():
    assert (read("t5").gated, read("t5").activation) == (False, "relu")
    assert (read("t5-gated").gated, read("t5-gated").activation) == (True, "gelu_tanh")
    assert read("t5", feed_forward_proj="gelu").activation == "gelu_erf"
    assert read("t5-version5").activation == "silu"


def test_sizes_of_encoder_and_decoder():
    spec = read("t5-version5")
    assert (spec.num_encoder_layers, spec.num_layers) == (3, 3)
    spec = read("bart")
    assert (spec.num_encoder_layers, spec.num_layers, spec.max_positions) == (2, 3, 48)
    spec = read("marian-two-embeddings")
    assert (spec.encoder_vocab_size, spec.vocab_size) == (67, 59)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("bart", {"encoder_ffn_dim": 36}, "encoder_ffn_dim is 36, expected decoder_ffn_dim"),
        ("mbart", {"encoder_attention_heads": 2}, "encoder_attention_heads is 2, expected"),
        ("bart", {"is_encoder_decoder": False}, "is_encoder_decoder is False"),
        ("bart", {"is_decoder": True}, "is_decoder is True"),
        ("bart", {"d_model": 25}, "a multiple of decoder_attention_heads"),
        ("marian", {"activation_function": "tanh"}, "activation_function is 'tanh'"),
        ("m2m_100", {"max_position_embeddings": 2**24}, "numbers of positions would be computed"),
        ("m2m_100", {"pad_token_id": -1}, "pad_token_id is -1"),
        ("t5", {"feed_forward_proj": "gated-x"}, "feed_forward_proj is 'gated-x'"),
        ("t5", {"feed_forward_proj": 3}, "feed_forward_proj is 3"),
        ("t5", {"relative_attention_num_buckets": 3}, "relative_attention_num_buckets is 3"),
        ("t5", {"relative_attention_max_distance": 4}, "more than half of"),
        ("t5", {"relative_attention_max_distance": 2**20, "num_heads": 999}, "biases by distance"),
        ("t5", {"scale_decoder_outputs": 1}, "scale_decoder_outputs is 1"),
        ("mt5", {"is_decoder": True}, "is_decoder is True"),
    ],
)
def test_what_is_not_computed_is_named(name, changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(name, **changes)
    assert str(caught.value).startswith("config.json")


def test_buckets_of_near_and_far_distances():
    """T5's own 32 and 128: eight (sixteen) distances alone, then wider ones (see the parity tests
    for every one)."""
    both = Relative(32, 128).buckets(bidirectional=True)
    assert both[128 - 7 : 128 + 8].tolist() == [*range(7, -1, -1), *range(17, 24)]
    assert (both[0], both[-1], both[128 - 8], both[128 + 16]) == (15, 31, 8, 26)
    back = Relative(32, 128).buckets(bidirectional=False)
    assert back[128 - 15 : 129].tolist() == list(range(15, -1, -1))
    assert set(back[128:]) == {0}
    assert back[0] == 31
    table = np.arange(64, dtype=np.float32).reshape(32, 2)
    bias = Relative(32, 128).bias(table, bidirectional=True)
    assert bias.shape == (2, 257)
    assert bias[1, 128 + 3] == 2 * 19 + 1


@pytest.mark.parametrize("width", [6, 7])
def test_positions_of_marian(width):
    table = Sinusoid().table(5, width)
    for place in range(5):
        for i in range(width):
            angle = place / 10000 ** (2 * (i // 2) / width)
            column = i // 2 + (i % 2) * ((width + 1) // 2)
            wanted = math.sin(angle) if i % 2 == 0 else math.cos(angle)
            assert table[place, column] == pytest.approx(wanted, abs=1e-7)  # float32


def test_positions_of_m2m():
    table = Sinusoid(first=2, tensor2tensor=True).table(3, 9)
    for row in range(3):
        for i in range(4):
            angle = (row + 2) * 10000 ** (-i / 3)
            assert table[row, i] == pytest.approx(math.sin(angle), abs=1e-6)  # float32's angle
            assert table[row, 4 + i] == pytest.approx(math.cos(angle), abs=1e-6)
        assert table[row, 8] == 0.0


# ---- tensors ----


def folder_of(tmp_path, name, change=None, **config):
    """A folder of a configuration, with its tensors changed."""
    config = pairs.CONFIGS[name] | config
    decoders.write_decoder(tmp_path, config, decoders.table_shapes(config), seed=4)
    tensors = load_file(tmp_path / "model.safetensors")
    if change is not None:
        change(tensors)
        save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path


def test_an_embedding_by_all_its_names(tmp_path):
    def repeat(tensors):
        shared = tensors.pop("shared.weight")
        for name in ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head"):
            tensors[f"{name}.weight"] = shared

    plain = softprompt.load_model(folder_of(tmp_path / "a", "t5"))
    other = softprompt.load_model(folder_of(tmp_path / "b", "t5", repeat))
    assert plain.fingerprint == other.fingerprint


def test_embeddings_that_differ_are_refused(tmp_path):
    def change(tensors):
        tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"] + 1

    with pytest.raises(ValueError, match=r"'encoder\.embed_tokens\.weight' differs from 'shared"):
        softprompt.load_model(folder_of(tmp_path, "bart", change))


def test_bart_without_a_bias_of_its_logits(tmp_path):
    """A checkpoint of BartModel has none: zeros, as in transformers."""
    bias = {}

    def drop(tensors):
        bias["found"] = tensors.pop("final_logits_bias")[0]

    plain = softprompt.load_model(folder_of(tmp_path / "a", "bart"))
    other = softprompt.load_model(folder_of(tmp_path / "b", "bart", drop))
    pair = [([3, 4], [5, 6])]
    np.testing.assert_allclose(
        plain.logits(pair)[0] - other.logits(pair)[0], np.tile(bias["found"], (2, 1)), atol=1e-4
    )


def test_marian_with_positions_in_its_file(tmp_path):
    """Those of the file count; without them they are computed."""

    def store(tensors):
        for stack in ("encoder", "decoder"):
            tensors[f"{stack}.embed_positions.weight"] = Sinusoid().table(48, 24)

    def without(tensors):
        for name in list(tensors):
            if "embed_positions" in name:
                del tensors[name]

    def other(tensors):
        store(tensors)
        tensors["encoder.embed_positions.weight"] += 1

    pair = [([3, 4], [5, 6])]

    def logits(name, change):
        model = softprompt.load_model(folder_of(tmp_path / name, "marian", change))
        return model.logits(pair)[0]

    np.testing.assert_array_equal(logits("a", store), logits("b", without))
    assert np.abs(logits("c", other) - logits("a", store)).max() > 0.1


def test_a_missing_tensor_is_named(tmp_path):
    def drop(tensors):
        del tensors["decoder.block.1.layer.1.EncDecAttention.k.weight"]

    with pytest.raises(ValueError, match=r"decoder\.block\.1\.layer\.1\.EncDecAttention\.k"):
        softprompt.load_model(folder_of(tmp_path, "t5", drop))


def test_generation_config_says_what_is_forced_and_suppressed(tmp_path):
    folder = folder_of(tmp_path, "bart")
    plain = softprompt.load_model(folder)
    first = plain.generate([[3, 4, 5]], max_new_tokens=3, return_ids=True)[0]
    generation = {"forced_bos_token_id": 7, "bad_words_ids": [[first[0]], [1, 2]]}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    model = softprompt.load_model(folder)
    assert model.config.suppressed_token_ids == (first[0],)
    for limit in (1, 2, 6):
        (ids,) = model.generate([[3, 4, 5]], max_new_tokens=limit, return_ids=True)
        assert ids[0] == 7
        assert first[0] not in ids
        assert len(ids) <= limit
