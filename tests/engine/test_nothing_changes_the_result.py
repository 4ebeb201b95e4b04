"""What may not change an answer.

To the bit, on one machine: the number of threads, other callers, a forked child, another process,
repetition. Within 1e-5 of the gradient's norm, with the same greedy text: whether prefixes are
shared, the order of the rows, how many rows are computed together, what else is in the batch. (A
matrix product's rounding depends on its shape, so the latter cannot be equal to the bit.)
"""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from engine.build import CharTokenizer, without_sharing

import softprompt
from softprompt.model import load

RELATIVE = 1e-5

OF_PREFIXES = ("mixed_losses", "mixed_grads", "prefix_rank_grad", "prefix_logits", "prefix_rank")


def answers(case, model=None) -> dict[str, np.ndarray]:
    """Every kind of answer that the model gives, as arrays."""
    model = model or case.model
    loss, grad = model.loss_and_grad(case.prompt, case.examples)
    rank_loss, rank_grad = model.ranking_loss_and_grad(
        case.prompt, case.inputs, case.choices, case.targets
    )
    several = model.loss_and_grad(
        [case.prompt, case.prompt[:3] * 0.5], [case.examples[:9], case.examples[9:20]]
    )
    new = model.generate(case.inputs[:6], case.prompt, max_new_tokens=12, return_ids=True)
    sampled = model.generate(
        case.inputs[:6], case.prompt, max_new_tokens=12, temperature=0.9, seed=3, return_ids=True
    )
    prefix = model.prefix(case.prompt)
    trained = trained_prefix(case)
    mixed = model.loss_and_grad(
        [trained, case.prompt, trained], [case.examples, case.examples[:9], case.examples[5:9]]
    )
    new_after_prefix = model.generate(
        case.inputs[:6], [trained, None] * 3, max_new_tokens=12, return_ids=True
    )
    return {
        "prefix": np.stack([prefix.keys, prefix.values]),
        "loss": np.array(loss),
        "grad": grad,
        "rank_loss": np.array(rank_loss),
        "rank_grad": rank_grad,
        "several_losses": np.array([loss for loss, _ in several]),
        "several_grads": np.concatenate([grad for _, grad in several]),
        "logits": np.concatenate(model.logits(case.inputs[:8], case.prompt)),
        "likelihood": model.log_likelihood(
            case.inputs, [target for _, target in case.examples], case.prompt
        ),
        "rank": model.rank(case.inputs, case.choices, case.prompt),
        "mixed_losses": np.array([loss for loss, _ in mixed]),
        "mixed_grads": np.concatenate([grad.reshape(-1) for _, grad in mixed]),
        "prefix_rank_grad": model.ranking_loss_and_grad(
            trained, case.inputs, case.choices, case.targets
        )[1],
        "prefix_logits": np.concatenate(model.logits(case.inputs[:8], trained)),
        "prefix_rank": model.rank(case.inputs, case.choices, trained),
        "prefix_greedy": np.array([t for ids in new_after_prefix for t in [*ids, -1]]),
        "greedy": np.array([t for ids in new for t in [*ids, -1]]),
        "sampled": np.array([t for ids in sampled for t in [*ids, -1]]),
    }


def trained_prefix(case) -> softprompt.Prefix:
    """Keys and values that no prompt leaves behind."""
    config = case.model.config
    shape = (2, config.num_layers, 17, config.num_kv_heads, config.head_dim)
    return softprompt.Prefix(*np.random.default_rng(2).normal(size=shape))


def assert_equal_bits(got: dict, expected: dict) -> None:
    for key, value in expected.items():
        assert got[key].dtype == value.dtype, key
        assert got[key].tobytes() == value.tobytes(), key


def assert_close(got: np.ndarray, expected: np.ndarray) -> None:
    error = np.linalg.norm(got.astype(np.float64) - expected)
    assert error <= RELATIVE * np.linalg.norm(expected), error / np.linalg.norm(expected)


@pytest.fixture(scope="module")
def expected(case) -> dict[str, np.ndarray]:
    return answers(case)


# --- equal bits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("num_threads", [1, 2, 3, 7])
def test_number_of_threads(case, expected, num_threads):
    model = softprompt.load_model(
        case.folder, num_threads=num_threads, tokenizer=CharTokenizer(600)
    )
    assert model.num_threads == num_threads
    assert_equal_bits(answers(case, model), expected)
    model.num_threads = 4 - min(num_threads, 3)
    assert_equal_bits(answers(case, model), expected)


def test_repetition(case, expected):
    for _ in range(3):
        assert_equal_bits(answers(case), expected)


def test_concurrent_callers_of_one_model(case, expected):
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(answers, case) for _ in range(8)]
        for future in futures:
            assert_equal_bits(future.result(), expected)


def test_concurrent_callers_of_two_models(case, expected):
    other = softprompt.load_model(case.folder, num_threads=2, tokenizer=CharTokenizer(600))
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(answers, case, m) for m in (case.model, other) * 2]
        for future in futures:
            assert_equal_bits(future.result(), expected)


def in_forked_child(function) -> dict:
    """Run a function in a forked child and return what it returned."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 and later warn of forks beside threads, which is what is tested.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(read)
            with os.fdopen(write, "wb") as pipe:
                pickle.dump(function(), pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return pickle.loads(data)


def test_forked_child(case, expected):
    # The parent has used its threads, and uses them again.
    assert_equal_bits(in_forked_child(lambda: answers(case)), expected)
    assert_equal_bits(answers(case), expected)


def test_forked_child_of_a_forked_child(case, expected):
    assert_equal_bits(
        in_forked_child(lambda: in_forked_child(lambda: answers(case)) | answers(case)), expected
    )


def test_fork_beside_a_running_call(case, expected):
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(answers, case) for _ in range(4)]
        assert_equal_bits(in_forked_child(lambda: answers(case)), expected)
        for future in futures:
            assert_equal_bits(future.result(), expected)


def test_fork_while_another_thread_loads(case, expected, monkeypatch):
    """The child loads the model itself, and does not wait for a thread that it does not have."""
    reached, go_on = threading.Event(), threading.Event()
    convert = load._convert

    def slow(*arguments):
        reached.set()
        go_on.wait()
        return convert(*arguments)

    def in_the_child():
        signal.alarm(60)
        monkeypatch.undo()
        return answers(case, softprompt.load_model(copy, tokenizer=CharTokenizer(600)))

    with TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:
        copy = shutil.copytree(case.folder, Path(folder) / "model")
        monkeypatch.setattr(load, "_convert", slow)
        future = pool.submit(softprompt.load_model, copy, tokenizer=CharTokenizer(600))
        try:
            assert reached.wait(60)
            assert_equal_bits(in_forked_child(in_the_child), expected)
        finally:
            go_on.set()
        assert_equal_bits(answers(case, future.result()), expected)


def test_another_process(case, expected):
    program = """
import pickle, sys
import numpy as np
import softprompt
folder, prompt, examples = pickle.load(sys.stdin.buffer)
model = softprompt.load_model(folder, num_threads=1)
sys.stdout.buffer.write(pickle.dumps(model.loss_and_grad(prompt, examples)))
"""
    package = Path(softprompt.__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=pickle.dumps((case.folder, case.prompt, case.examples)),
        env=os.environ | {"PYTHONPATH": str(package)},
        capture_output=True,
        check=True,
    )
    loss, grad = pickle.loads(done.stdout)
    assert loss == float(expected["loss"])
    assert grad.tobytes() == expected["grad"].tobytes()


def test_a_pickled_model(case, expected):
    model = pickle.loads(pickle.dumps(softprompt.load_model(case.folder)))
    loss, grad = model.loss_and_grad(case.prompt, case.examples)
    assert loss == float(expected["loss"])
    assert grad.tobytes() == expected["grad"].tobytes()


def test_what_ran_before(case, expected):
    """Another call with other sizes leaves nothing behind in a workspace that is used again."""
    case.model.loss_and_grad(case.prompt[:1], [([5], [6])])
    case.model.logits([case.inputs[0] * 5])
    assert_equal_bits(answers(case), expected)


def test_other_layouts_of_the_arguments(case, expected):
    """Lists, tuples, arrays of other integer types; float64, strided and read-only prompts."""
    wide = np.zeros((17, 192))
    wide[:, ::2] = case.prompt
    frozen = case.prompt.copy()
    frozen.flags.writeable = False
    examples = [(np.array(i, dtype=np.uint16), tuple(t)) for i, t in case.examples]
    for prompt in (wide[:, ::2], np.asfortranarray(case.prompt), frozen, case.prompt.tolist()):
        loss, grad = case.model.loss_and_grad(prompt, examples)
        assert loss == float(expected["loss"])
        assert grad.tobytes() == expected["grad"].tobytes()


def test_arguments_stay_as_they_are(case):
    prompt = case.prompt.copy()
    examples = [(np.array(i), np.array(t)) for i, t in case.examples]
    copies = pickle.loads(pickle.dumps(examples))
    case.model.loss_and_grad(prompt, examples)
    np.testing.assert_array_equal(prompt, case.prompt)
    for given, copy in zip(examples, copies, strict=True):
        np.testing.assert_array_equal(given[0], copy[0])
        np.testing.assert_array_equal(given[1], copy[1])


# --- within rounding ------------------------------------------------------------------------------


def test_sharing(case, expected):
    with without_sharing(case.model):
        alone = answers(case)
    for key in ("loss", "grad", "rank_loss", "rank_grad", "several_losses", "several_grads"):
        assert_close(alone[key], expected[key])
    for key in ("logits", "likelihood", "rank", *OF_PREFIXES):
        assert_close(alone[key], expected[key])
    for key in ("greedy", "prefix_greedy"):
        np.testing.assert_array_equal(alone[key], expected[key])


def test_order_of_the_examples(case, expected):
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(case.examples))
        loss, grad = case.model.loss_and_grad(case.prompt, [case.examples[i] for i in order])
        assert_close(np.array(loss), expected["loss"])
        assert_close(grad, expected["grad"])
        likelihood = case.model.log_likelihood(
            [case.inputs[i] for i in order], [case.examples[i][1] for i in order], case.prompt
        )
        assert_close(likelihood, expected["likelihood"][order])


def test_rows_that_are_computed_together(case, expected):
    """Less memory, so fewer rows at a time: down to the least that the model accepts."""
    seen = set()
    for limit in memory_limits(case):
        model = softprompt.load_model(case.folder, memory_limit=limit, tokenizer=CharTokenizer(600))
        got = answers(case, model)
        for key in ("loss", "grad", "rank_loss", "rank_grad", "logits", "likelihood", "rank"):
            assert_close(got[key], expected[key])
        for key in OF_PREFIXES:
            assert_close(got[key], expected[key])
        for key in ("greedy", "prefix_greedy"):
            np.testing.assert_array_equal(got[key], expected[key])
        seen.add(got["grad"].tobytes())
    assert len(seen) > 1, "no limit changed the schedule, so nothing was tested"


def test_a_limit_below_what_a_call_takes(case):
    """An error with both numbers, and the same model goes on with calls that fit."""
    weights = sum(w.nbytes for w in case.model.weights.values())
    limit = weights + 2**16
    model = softprompt.load_model(case.folder, memory_limit=limit, tokenizer=CharTokenizer(600))
    inputs = [list(range(1, 60))] * 4
    calls = {
        "loss_and_grad": lambda: model.loss_and_grad(case.prompt, case.examples),
        "rank": lambda: model.rank(inputs, case.choices, case.prompt),
        "logits": lambda: model.logits(inputs, case.prompt),
        "generate": lambda: model.generate(inputs, case.prompt, max_new_tokens=60),
    }
    for call in calls.values():
        with pytest.raises(RuntimeError, match=f"memory_limit = {limit} bytes.*takes"):
            call()
    model.memory_limit = None
    for call in calls.values():
        call()


def memory_limits(case) -> list[int]:
    """Limits in bytes, from plenty down to little, all of them enough for the longest sequence."""
    weights = sum(w.nbytes for w in case.model.weights.values())
    return [weights + megabytes * 2**20 for megabytes in (512, 16, 8, 4)]


def test_examples_alone_and_together(case, expected):
    """The mean over all target tokens is the weighted mean of what each example says alone."""
    total, count = np.zeros_like(case.prompt, dtype=np.float64), 0
    for example in case.examples:
        _, grad = case.model.loss_and_grad(case.prompt, [example])
        total += len(example[1]) * grad.astype(np.float64)
        count += len(example[1])
    assert_close(total / count, expected["grad"])
    alone = [case.model.log_likelihood([i], [t], case.prompt)[0] for i, t in case.examples]
    assert_close(np.array(alone), expected["likelihood"])


def test_a_prompt_alone_and_among_others(case, expected):
    others = [case.prompt * 0.5, case.prompt[:4], np.roll(case.prompt, 1, axis=0)]
    together = case.model.loss_and_grad(
        [others[0], case.prompt, *others[1:]], [case.examples] * (1 + len(others))
    )
    loss, grad = together[1]
    assert_close(np.array(loss), expected["loss"])
    assert_close(grad, expected["grad"])
    for prompt, (loss, grad) in zip(others, [together[0], *together[2:]], strict=True):
        alone = case.model.loss_and_grad(prompt, case.examples)
        assert_close(np.array(loss), np.array(alone[0]))
        assert_close(grad, alone[1])


def test_a_copy_of_an_example_counts_twice(case):
    first, second = case.examples[:2]
    weighted = (*first, [2.0] * len(first[1]))
    once = case.model.loss_and_grad(case.prompt, [weighted, second])
    twice = case.model.loss_and_grad(case.prompt, [first, second, first])
    assert_close(np.array(once[0]), np.array(twice[0]))
    assert_close(once[1], twice[1])
