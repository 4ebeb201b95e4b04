"""Ctrl-C in the middle of a long call: answered soon, and the model works on.

The interface promises two seconds; the test waits ten, as the machine may be busy. It is no
timing: without an answer inside the call, each of these calls runs for minutes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

import softprompt

CONFIG = {
    "vocab_size": 4000,
    "hidden_size": 192,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "head_dim": 32,
    "intermediate_size": 512,
    "max_position_embeddings": 8192,
    "eos_token_id": None,
}

PROGRAM = """
import sys
import numpy as np
import softprompt

model = softprompt.load_model(sys.argv[1])
prompt = np.ones((4, 192), np.float32)
small = [([5, 6, 7], [8])]
rng = np.random.default_rng(0)
rows = [rng.integers(0, 4000, size=40).tolist() for _ in range(20000)]
calls = {
    "loss_and_grad": lambda: model.loss_and_grad(prompt, [(row, row[:2]) for row in rows]),
    "one_long_sequence": lambda: [
        model.loss_and_grad(prompt, [(sum(rows[:200], []), row[:1])]) for row in rows
    ],
    "logits": lambda: [model.logits([sum(rows[:200], [])], prompt) for _ in range(1000)],
    "log_likelihood": lambda: model.log_likelihood(rows, rows),
    "rank": lambda: model.rank(rows, [[5], [6, 7], [6, 8, 9]], prompt),
    "ranking_loss_and_grad": lambda: model.ranking_loss_and_grad(
        prompt, rows, [[5], [6, 7]], [0] * len(rows)
    ),
    "generate": lambda: model.generate(rows, prompt, max_new_tokens=500, return_ids=True),
    "beams": lambda: model.generate(rows, prompt, max_new_tokens=500, num_beams=4),
}
before = model.loss_and_grad(prompt, small)
print("ready", flush=True)
try:
    calls[sys.argv[2]]()
except KeyboardInterrupt:
    print("interrupted", flush=True)
    after = model.loss_and_grad(prompt, small)
    same = before[0] == after[0] and before[1].tobytes() == after[1].tobytes()
    print("works" if same else "differs", flush=True)
"""

CALLS = [
    "loss_and_grad",
    "one_long_sequence",
    "logits",
    "log_likelihood",
    "rank",
    "ranking_loss_and_grad",
    "generate",
    "beams",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_tiny(tmp_path_factory.mktemp("tiny"), "llama", changes=CONFIG)


@pytest.mark.parametrize("call", CALLS)
def test_interrupt(folder, call):
    package = Path(softprompt.__file__).resolve().parents[1]
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), call],
        env=os.environ | {"PYTHONPATH": str(package)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout.readline() == "ready\n"
        time.sleep(1.0)
        assert child.poll() is None, "the call was not long enough to be interrupted"
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=10)
    finally:
        child.kill()
        child.wait()
    assert out.split() == ["interrupted", "works"], err
