"""SmolLM2-135M-Instruct from the same GGUF file, in transformers with PEFT and here.

Both sides get the same ids and hold the same dequantised float32 weights; theirs computes in
float64. Tolerances: logits 1e-4 and gradient 1e-4 (norm of the difference over the norm), loss
1e-5: rounding to float32 through 30 layers alone leaves about 1e-6 to 1e-5.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="parity needs torch, transformers 5 and peft 0.21")
pytest.importorskip("gguf", reason="transformers reads GGUF files through the library gguf")

import torch
import transformers
from parity import oracle
from parity.training import train_here, train_with_peft, trainable

import softprompt

TEXTS = [
    ("Review: a gorgeous, witty, seductive movie\nSentiment:", " positive"),
    ("Review: dull.\nSentiment:", " negative"),
    ("The capital of France is", " Paris, a city on the Seine."),
    ("Review: it never quite makes up its mind what it wants to be\nSentiment:", " negative"),
]


@pytest.fixture(scope="module")
def theirs(smollm2_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(
        smollm2_path.parent,
        gguf_file=smollm2_path.name,
        dtype=torch.float32,
        attn_implementation="sdpa",
    )
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def examples(smollm2) -> list[tuple[list[int], list[int]]]:
    encode = smollm2.tokenizer.encode
    return [(encode(text), encode(target)) for text, target in TEXTS]


def prompt_of(model, rows: int) -> np.ndarray:
    """Words' embeddings, moved a little: what a prompt looks like after some training."""
    rng = np.random.default_rng(rows)
    words = model.embeddings[rng.integers(100, 20000, size=rows)]
    return (words + 0.03 * rng.standard_normal(words.shape)).astype(np.float32)


@pytest.fixture
def with_prompt(theirs):
    """Function that puts a prompt before transformers' model; undone after the test."""
    tuned = []

    def add(prompt: np.ndarray):
        tuned.append(oracle.add_prompt(theirs, prompt))
        return tuned[-1]

    return add


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def ask_in_float64(model, examples) -> oracle.Answer:
    """What the model says in double precision; afterwards it is as it was.

    After training, PEFT's padded batch in float32 is itself up to 1.3e-5 (loss) and 1.2e-4
    (gradient) away from this, more or less by the CPU's matrix products.
    """
    # transformers refuses `model.float()` because the weights came from a quantised file.
    torch.nn.Module.double(model)
    try:
        return oracle.ask(model, examples)
    finally:
        torch.nn.Module.float(model)


def test_embeddings_are_equal(smollm2, theirs):
    table = theirs.get_input_embeddings().weight.numpy()
    np.testing.assert_array_equal(np.asarray(smollm2.embeddings), table)


def test_without_a_prompt(smollm2, theirs, examples):
    exact = ask_in_float64(theirs, examples)
    logits = smollm2.logits([i + t for i, t in examples])
    for got, expected in zip(logits, exact.logits, strict=True):
        assert relative(got, expected) < 1e-4
    inputs, targets = [e[0] for e in examples], [e[1] for e in examples]
    mean = -smollm2.log_likelihood(inputs, targets).sum() / sum(map(len, targets))
    assert abs(mean - exact.loss) < 1e-5 * exact.loss


@pytest.mark.parametrize("rows", [1, 20, 100])
def test_with_a_prompt(smollm2, with_prompt, examples, rows):
    prompt = prompt_of(smollm2, rows)
    exact = ask_in_float64(with_prompt(prompt), examples)
    logits = smollm2.logits([i + t for i, t in examples], prompt)
    for got, expected in zip(logits, exact.logits, strict=True):
        assert relative(got, expected[rows:]) < 1e-4
    loss, grad = smollm2.loss_and_grad(prompt, examples)
    assert abs(loss - exact.loss) < 1e-5 * exact.loss
    assert relative(grad, exact.grad) < 1e-4


@pytest.mark.parametrize("tuned", [False, True])
def test_sixty_greedy_tokens(smollm2, theirs, with_prompt, tuned):
    """The smallest lead of a best over a second logit is 0.05, so rounding cannot turn a choice."""
    ids = smollm2.tokenizer.encode("The history of the bicycle begins")
    prompt, model = None, theirs
    if tuned:
        # A text's embeddings, moved: fluent text follows, so the tokens say something.
        words = smollm2.tokenizer.encode("Here is a story for children.\n\n")
        noise = np.random.default_rng(1).standard_normal((len(words), 576))
        prompt = (smollm2.embeddings[np.array(words)] + 0.02 * noise).astype(np.float32)
        model = with_prompt(prompt)
    (ours,) = smollm2.generate([ids], prompt, max_new_tokens=60, return_ids=True)
    assert ours == oracle.greedy(model, ids, 60)
    assert len(ours) == 60


def test_a_prompt_that_peft_trained(smollm2, with_prompt, examples, tmp_path):
    tuned = with_prompt(prompt_of(smollm2, 5))
    train_with_peft(tuned, examples, 0.01)
    exact = ask_in_float64(tuned, examples)
    tuned.save_pretrained(tmp_path)
    loss, grad = smollm2.loss_and_grad(softprompt.SoftPrompt.load(tmp_path), examples)
    assert abs(loss - exact.loss) < 1e-5 * exact.loss
    assert relative(grad, exact.grad) < 1e-4


def test_a_prompt_that_was_trained_here(smollm2, theirs, examples, tmp_path):
    array = train_here(smollm2, prompt_of(smollm2, 5), examples, 0.01)
    loss, grad = smollm2.loss_and_grad(array, examples)
    softprompt.SoftPrompt(array).save(tmp_path)
    exact = ask_in_float64(trainable(oracle.PeftModel.from_pretrained(theirs, tmp_path)), examples)
    assert abs(loss - exact.loss) < 1e-5 * exact.loss
    assert relative(grad, exact.grad) < 1e-4
