"""Every decoder family and its switches: transformers 5 and PEFT against softprompt.

The reference is a float64 run of each text alone. Tolerance: 1e-5, or four times what transformers'
own float32 run differs by, where that is more; of the norm of the logits, of the loss, of the norm
of the gradient.
"""

from __future__ import annotations

import decoders
import numpy as np
import pytest

pytest.importorskip("torch", reason="parity needs torch, transformers 5 and peft 0.21")

from parity import families_oracle, oracle

import softprompt

NEW_TOKENS = 10


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference over the norm of what is expected."""
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def bound(single: float) -> float:
    return max(1e-5, 4 * single)


@pytest.mark.parametrize("name", list(decoders.CONFIGS))
def test_logits_loss_and_gradient(tmp_path, name):
    config = decoders.CONFIGS[name]
    folder = families_oracle.write(tmp_path, config, seed=5)
    batch = decoders.examples(config)
    model = softprompt.load_model(folder)
    for rows in (0, 5):
        prompt = decoders.prompt(config, rows) if rows else None
        exact, single = (
            families_oracle.ask(folder, batch, prompt, exact=exact) for exact in (True, False)
        )
        got = model.logits([i + t for i, t in batch], prompt)
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


@pytest.mark.parametrize("name", list(decoders.CONFIGS))
def test_greedy_tokens(tmp_path, name):
    config = decoders.CONFIGS[name]
    folder = families_oracle.write(tmp_path, config, seed=6)
    theirs = families_oracle.load(folder, exact=False)
    prompt = decoders.prompt(config, 3)
    inputs = [input_ids for input_ids, _ in decoders.examples(config)]
    ours = softprompt.load_model(folder).generate(
        inputs, prompt, max_new_tokens=NEW_TOKENS, return_ids=True
    )
    theirs = oracle.add_prompt(theirs, prompt)
    for ids, got in zip(inputs, ours, strict=True):
        assert got == families_oracle.greedy(theirs, ids, NEW_TOKENS)


@pytest.mark.parametrize("name", list(decoders.CONFIGS))
def test_embeddings(tmp_path, name):
    """A prompt's rows stand where transformers takes `inputs_embeds`."""
    folder = families_oracle.write(tmp_path, decoders.CONFIGS[name], seed=7)
    model = softprompt.load_model(folder)
    theirs = families_oracle.load(folder, exact=False).get_input_embeddings()
    ids = families_oracle.all_ids(theirs)
    np.testing.assert_array_equal(np.asarray(model.embeddings), theirs(ids).detach().numpy())


MODEL_TYPES = sorted({config["model_type"] for config in decoders.CONFIGS.values()})


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_switch_of_transformers_is_read(tmp_path, model_type):
    """What transformers' own configuration of the family has is read, refused or without effect."""
    folders = []
    for name, config in decoders.CONFIGS.items():
        if config["model_type"] == model_type:
            (tmp_path / name).mkdir()
            decoders.write_config(tmp_path / name, config)
            folders.append(tmp_path / name)
    assert families_oracle.unread_switches(folders) == set()
