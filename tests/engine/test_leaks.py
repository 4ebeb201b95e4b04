"""Nothing stays behind: memory of the process, references to arguments, after calls of every kind
and after every kind of error.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
from engine.build import CharTokenizer

import softprompt

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="reads the resident size from /proc"
)

REPEATS = 150
# What an allocator may keep: a leaked workspace of one call is some 100 kB, times REPEATS.
SLACK_BYTES = 3 * 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_tiny(tmp_path_factory.mktemp("tiny"), "llama")


@pytest.fixture(scope="module")
def model(folder):
    return softprompt.load_model(folder, tokenizer=CharTokenizer(97))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def growth(call: Callable[[], object]) -> int:
    """Bytes by which the process grows over REPEATS calls, after it has settled."""
    for _ in range(20):
        call()
    gc.collect()
    before = resident_bytes()
    for _ in range(REPEATS):
        call()
    gc.collect()
    return resident_bytes() - before


PROMPT = np.ones((9, 24), np.float32)
PREFIX, OTHER_PREFIX = (
    softprompt.Prefix(*np.ones((2, layers, 9, 2, 4), np.float32)) for layers in (3, 2)
)
EXAMPLES = [([5, 6, 7, i], [8, i]) for i in range(90)]
INPUTS = [ids for ids, _ in EXAMPLES]

CALLS: dict[str, Callable] = {
    "loss_and_grad": lambda m: m.loss_and_grad(PROMPT, EXAMPLES),
    "several_prompts": lambda m: m.loss_and_grad([PROMPT, PROMPT[:2]], [EXAMPLES, EXAMPLES]),
    "ranking": lambda m: m.ranking_loss_and_grad(PROMPT, INPUTS, [[5], [6, 7]], [0] * 90),
    "logits": lambda m: m.logits(INPUTS[:20], PROMPT),
    "rank": lambda m: m.rank(INPUTS, [[5], [6, 7]], PROMPT),
    "generate": lambda m: m.generate(INPUTS[:9], PROMPT, max_new_tokens=5),
    "generate_mixed": lambda m: m.generate(
        INPUTS[:3], [PROMPT, None, PROMPT[:1]], max_new_tokens=5
    ),
    "beams": lambda m: m.generate(INPUTS[:4], PROMPT, max_new_tokens=5, num_beams=3),
    "prefix": lambda m: m.prefix(PROMPT),
    "trained_prefix": lambda m: m.loss_and_grad([PREFIX, PROMPT], [EXAMPLES, EXAMPLES]),
    "generate_after_prefixes": lambda m: m.generate(
        INPUTS[:3], [PREFIX, None, PROMPT], max_new_tokens=5
    ),
    "embeddings": lambda m: m.embeddings[np.arange(97)],
}


def _failing(call: Callable) -> Callable:
    def run(m) -> None:
        with pytest.raises((ValueError, TypeError, RuntimeError, LookupError, OverflowError)):
            call(m)

    return run


def _raise(row: int, text: str) -> None:
    raise RuntimeError("no more")


ERRORS: dict[str, Callable] = {
    name: _failing(call)
    for name, call in {
        "bad_id_late": lambda m: m.loss_and_grad(PROMPT, [*EXAMPLES, ([5], [97])]),
        "bad_id_in_logits": lambda m: m.logits([*INPUTS, [-1]], PROMPT),
        "bad_prompt": lambda m: m.loss_and_grad(PROMPT * np.nan, EXAMPLES),
        "narrow_prompt": lambda m: m.loss_and_grad(PROMPT[:, :5], EXAMPLES),
        "too_long": lambda m: m.loss_and_grad(PROMPT, [*EXAMPLES, ([5] * 200, [6])]),
        "other_prefix": lambda m: m.loss_and_grad(OTHER_PREFIX, EXAMPLES),
        "empty_after_a_prefix": lambda m: m.generate([*INPUTS[:3], []], PREFIX, return_ids=True),
        "prefix_too_long": lambda m: m.prefix(np.ones((200, 24), np.float32)),
        "empty_target": lambda m: m.loss_and_grad(PROMPT, [*EXAMPLES, ([5], [])]),
        "bad_choice": lambda m: m.rank(INPUTS, [[5], [97]], PROMPT),
        "bad_generate": lambda m: m.generate([*INPUTS[:5], [97]], PROMPT, return_ids=True),
        "beams_with_stream": lambda m: m.generate(INPUTS, PROMPT, num_beams=2, stream=_raise),
        "failing_stream": lambda m: m.generate(INPUTS[:5], PROMPT, max_new_tokens=5, stream=_raise),
    }.items()
}


@pytest.mark.parametrize("name", [*CALLS, *ERRORS])
def test_memory_stays(model, name):
    call = (CALLS | ERRORS)[name]
    grown = growth(lambda: call(model))
    assert grown < SLACK_BYTES, f"grew by {grown} bytes in {REPEATS} calls"


@pytest.mark.parametrize("name", [*CALLS, *ERRORS])
def test_references_stay(model, name):
    call = (CALLS | ERRORS)[name]
    call(model)
    held = (PROMPT, EXAMPLES, INPUTS, EXAMPLES[0], EXAMPLES[0][0], None, model, model.tokenizer)
    gc.collect()
    before = [sys.getrefcount(thing) for thing in held]
    for _ in range(10):
        call(model)
    gc.collect()
    after = [sys.getrefcount(thing) for thing in held]
    # None is counted by everybody else too.
    assert all(abs(b - a) < 5 for a, b in zip(before, after, strict=True)), (before, after)


def test_models_are_released(folder):
    """Loading, using and dropping models, references in circles included."""

    def use() -> None:
        model = softprompt.load_model(folder)
        model.loss_and_grad(PROMPT, EXAMPLES[:3])
        model.generate(INPUTS[:2], PROMPT, max_new_tokens=2, return_ids=True)

    grown = growth(lambda: (use(), gc.collect()))
    assert grown < SLACK_BYTES, f"grew by {grown} bytes in {REPEATS} loads"


def test_an_answer_outlives_its_model(folder):
    model = softprompt.load_model(folder)
    rows = model.embeddings[np.arange(5)]
    table = model.embeddings
    _, grad = model.loss_and_grad(PROMPT, EXAMPLES[:3])
    copies = rows.copy(), grad.copy(), np.asarray(table).copy()
    del model
    gc.collect()
    np.testing.assert_array_equal(rows, copies[0])
    np.testing.assert_array_equal(grad, copies[1])
    np.testing.assert_array_equal(np.asarray(table), copies[2])
