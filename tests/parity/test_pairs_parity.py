"""Every family with an encoder and its switches: transformers 5 and PEFT against softprompt.

Reference and tolerance as in `test_families_parity.py`.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="parity needs torch, transformers 5 and peft 0.21")

import pairs
import torch
from parity import families_oracle, pairs_oracle
from parity.test_families_parity import bound, relative
from transformers.models.t5.modeling_t5 import T5Attention

import softprompt
from softprompt.families.relative import Relative


@pytest.mark.parametrize("name", list(pairs.CONFIGS))
def test_logits_loss_and_gradient(tmp_path, name):
    config = pairs.CONFIGS[name]
    folder = pairs_oracle.write(tmp_path, config, seed=5)
    batch = pairs.examples(config)
    model = softprompt.load_model(folder)
    for rows in (0, 5):
        prompt = pairs.prompt(config, rows) if rows else None
        exact, single = (
            pairs_oracle.ask(folder, batch, prompt, exact=exact) for exact in (True, False)
        )
        got = model.logits(batch, prompt)
        for ours, theirs, rough in zip(got, exact.logits, single.logits, strict=True):
            assert relative(ours, theirs) < bound(relative(rough, theirs))
        allowed = bound(abs(single.loss - exact.loss) / exact.loss) * exact.loss
        inputs, targets = [e[0] for e in batch], [e[1] for e in batch]
        mean = -model.log_likelihood(inputs, targets, prompt).sum() / sum(map(len, targets))
        assert abs(mean - exact.loss) < allowed
        if rows:
            loss, grad = model.loss_and_grad(prompt, batch)
            assert abs(loss - exact.loss) < allowed
            assert relative(grad, exact.grad) < bound(relative(single.grad, exact.grad))


@pytest.mark.parametrize("name", list(pairs.CONFIGS))
def test_embeddings(tmp_path, name):
    """A prompt's rows stand where transformers takes `inputs_embeds`."""
    folder = pairs_oracle.write(tmp_path, pairs.CONFIGS[name], seed=7)
    model = softprompt.load_model(folder)
    theirs = pairs_oracle.load(folder, exact=False)
    table = theirs.get_encoder().get_input_embeddings()
    scale = theirs.config.d_model**0.5 if pairs_oracle.scales_in_encoder(theirs) else 1.0
    rows = table(families_oracle.all_ids(table)).detach() * scale
    np.testing.assert_array_equal(np.asarray(model.embeddings), rows.numpy())


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("buckets", [4, 8, 20, 32, 33, 64])
@pytest.mark.parametrize("reach", [33, 40, 128, 1000])
def test_buckets_of_distances(bidirectional, buckets, reach):
    """Equal to transformers' for every distance, also those that round to another bucket."""
    distances = torch.arange(-3 * reach, 3 * reach + 1)
    theirs = T5Attention._relative_position_bucket(distances, bidirectional, buckets, reach)
    places = np.clip(distances.numpy(), -reach, reach) + reach
    ours = Relative(buckets, reach).buckets(bidirectional=bidirectional)[places]
    np.testing.assert_array_equal(ours, theirs.numpy())


MODEL_TYPES = sorted({config["model_type"] for config in pairs.CONFIGS.values()})


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_switch_of_transformers_is_read(tmp_path, model_type):
    """What transformers' own configuration of the family has is read, refused or without effect."""
    folders = []
    for name, config in pairs.CONFIGS.items():
        if config["model_type"] == model_type:
            (tmp_path / name).mkdir()
            families_oracle.decoders.write_config(tmp_path / name, config)
            folders.append(tmp_path / name)
    # Of training, of generation (read elsewhere), or derived from other switches.
    without_effect = {
        "dropout_rate", "encoder_layerdrop", "decoder_layerdrop", "decoder_start_token_id",
        "forced_eos_token_id", "activation_dropout", "dense_act_fn", "is_gated_act",
    }  # fmt: skip
    if model_type == "mt5":  # transformers ties it by name, whatever the file says
        without_effect.add("tie_word_embeddings")
    assert families_oracle.unread_switches(folders) - without_effect == set()


@pytest.mark.parametrize("name", ["bart", "m2m_100", "t5", "marian"])
def test_forced_and_suppressed_tokens(tmp_path, name):
    """generation_config.json counts as in transformers' own ``generate``."""
    config = pairs.CONFIGS[name]
    folder = pairs_oracle.write(tmp_path, config, seed=6)
    inputs = [ids for ids, _ in pairs.examples(config)]
    plain = softprompt.load_model(folder).generate(inputs, max_new_tokens=9, return_ids=True)
    common = max((t for ids in plain for t in ids), key=[t for ids in plain for t in ids].count)
    generation = {
        "forced_bos_token_id": 9, "bad_words_ids": [[common]], "suppress_tokens": [3],
        **{key: config[key] for key in ("decoder_start_token_id", "eos_token_id", "pad_token_id")},
    }  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    model, theirs = softprompt.load_model(folder), pairs_oracle.load(folder, exact=False)
    one = model.generate(inputs, max_new_tokens=1, num_beams=3, return_ids=True)
    assert one == [[9]] * len(inputs)  # all of it is forced
    got = model.generate(inputs, max_new_tokens=9, return_ids=True)
    assert got != plain
    beams = model.generate(inputs, max_new_tokens=9, num_beams=3, return_ids=True)
    for ids, *found in zip(inputs, got, beams, strict=True):
        for new, num_beams in zip(found, (1, 3), strict=True):
            with torch.no_grad():
                out = theirs.generate(
                    input_ids=torch.tensor([ids]), attention_mask=torch.ones((1, len(ids))),
                    max_new_tokens=9, do_sample=False, num_beams=num_beams,
                )[0].tolist()[1:]  # fmt: skip
            end = config["eos_token_id"]
            assert new == (out[: out.index(end)] if end in out else out)


@pytest.mark.parametrize("name", list(pairs.CONFIGS))
def test_a_folder_that_transformers_saves(tmp_path, name):
    """As version 5 writes it: the same model, but the origin of its file."""
    config = pairs.CONFIGS[name]
    (tmp_path / "given").mkdir()
    folder = pairs_oracle.write(tmp_path / "given", config, seed=8)
    pairs_oracle.load(folder, exact=False).save_pretrained(tmp_path / "saved")
    given, saved = (softprompt.load_model(tmp_path / part) for part in ("given", "saved"))
    batch = pairs.examples(config)
    for one, other in zip(given.logits(batch), saved.logits(batch), strict=True):
        np.testing.assert_array_equal(one, other)
