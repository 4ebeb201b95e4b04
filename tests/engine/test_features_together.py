"""What was built apart, used together: beams after a prefix, stored weights of a model with an
encoder, stored weights under a prefix.
"""

from __future__ import annotations

import shutil

import decoders
import numpy as np
import pytest
import tiny
from engine.build import CharTokenizer
from safetensors.numpy import load_file, save_file

import softprompt

LENGTHS = (4, 9, 6)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "gemma3", "llama-dynamic"])
@pytest.mark.parametrize("weights", ["float32", "stored"])
def test_beams_after_a_prefix(tmp_path, name, weights):
    """A prompt's own keys and values are a prefix that gives the prompt's texts."""
    if name in tiny.CONFIGS:
        tiny.write_tiny(tmp_path, name, seed=3)
        vocab_size = tiny.CONFIGS[name]["vocab_size"]
    else:
        config = decoders.CONFIGS[name]
        decoders.write_decoder(tmp_path, config, decoders.table_shapes(config), seed=4)
        vocab_size = config["vocab_size"]
    path = tmp_path / "model.safetensors"
    half = {key: value.astype(np.float16) for key, value in load_file(path).items()}
    save_file(half, path, metadata={"format": "pt"})
    model = softprompt.load_model(tmp_path, weights=weights, tokenizer=CharTokenizer(vocab_size))
    rng = np.random.default_rng(0)
    inputs = [rng.integers(3, vocab_size, size=n).tolist() for n in LENGTHS]
    prompt = rng.standard_normal((3, model.config.hidden_size)).astype(np.float32)
    # within the original length, where a prefix of a dynamic model holds
    options = {"max_new_tokens": 4, "num_beams": 3, "num_return_sequences": 2, "return_ids": True}
    expected = model.generate(inputs, prompt, **options)
    assert model.generate(inputs, model.prefix(prompt), **options) == expected
    assert len({tuple(ids) for ids in expected}) > 2


@pytest.mark.parametrize("side", ["us", "gb"])
def test_stored_weights_of_a_model_with_an_encoder(shared_dir, tmp_path, side):
    """The same float32 numbers are multiplied: equal texts, and gradients to a sum's rounding."""
    folder = shutil.copytree(shared_dir / "models" / f"bart-g2p-{side}", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    half = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    stored, plain = (softprompt.load_model(folder, weights=w) for w in ("stored", "float32"))
    assert set(stored.weight_bytes) == {"F16", "F32"}
    rng = np.random.default_rng(1)
    words = [[1, *rng.integers(4, 60, size=n).tolist(), 2] for n in (3, 8, 5, 12)]
    batch = [(ids, [1, *rng.integers(4, 60, size=6).tolist(), 2]) for ids in words]
    prompt = (0.1 * rng.standard_normal((5, 128))).astype(np.float32)
    (loss, grad), (plain_loss, plain_grad) = (
        model.loss_and_grad(prompt, batch) for model in (stored, plain)
    )
    assert abs(loss - plain_loss) <= 1e-6 * plain_loss
    assert np.linalg.norm(grad - plain_grad) <= 1e-5 * np.linalg.norm(plain_grad)
    for options in ({}, {"num_beams": 4}):
        got, expected = (
            model.generate(words, prompt, max_new_tokens=20, return_ids=True, **options)
            for model in (stored, plain)
        )
        assert got == expected


@pytest.mark.parametrize("kind", ["BF16", "Q4_0"])
def test_gradient_of_a_prefix_with_stored_weights(tmp_path, kind):
    from loading.test_stored_weights import both, examples, random_prompt, write_model

    stored, plain = both(write_model(tmp_path, [kind]))
    prefix, batch = plain.prefix(random_prompt(plain)), examples(plain.spec.vocab_size)
    (loss, grad), (plain_loss, plain_grad) = (
        model.loss_and_grad(prefix, batch) for model in (stored, plain)
    )
    assert abs(loss - plain_loss) <= 1e-6 * plain_loss
    assert np.linalg.norm(plain_grad) > 0
    assert np.linalg.norm(grad - plain_grad) <= 1e-5 * np.linalg.norm(plain_grad)
