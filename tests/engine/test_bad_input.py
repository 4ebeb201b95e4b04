"""Every bad argument ends in an exception of a kind that the interface names, with the value and
what was expected in its text, and leaves a model that works on.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny

import softprompt

WIDTH, VOCAB, CONTEXT = 24, 97, 128
GOOD = [([5, 6, 7], [8])]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return softprompt.load_model(tiny.write_tiny(tmp_path_factory.mktemp("tiny"), "llama"))


@pytest.fixture(autouse=True)
def the_model_works_on(model):
    before = model.loss_and_grad(np.ones((2, WIDTH), np.float32), GOOD)
    yield
    after = model.loss_and_grad(np.ones((2, WIDTH), np.float32), GOOD)
    assert before[0] == after[0]
    assert before[1].tobytes() == after[1].tobytes()


def prompt(*shape: int, value: float = 0.5, dtype: type = np.float32) -> np.ndarray:
    return np.full(shape or (3, WIDTH), value, dtype=dtype)


def with_entry(value: float) -> np.ndarray:
    array = prompt()
    array[1, 7] = value
    return array


BAD_PROMPTS = {
    "narrow": (prompt(3, 23), ValueError, ["23", "24"]),
    "wide": (prompt(3, 25), ValueError, ["25", "24"]),
    "one-row-as-vector": (prompt(WIDTH), ValueError, ["24"]),
    "three-axes": (prompt(1, 3, WIDTH), ValueError, ["3"]),
    "scalar": (np.float32(1.0), ValueError, []),
    "no-rows": (prompt(0, WIDTH), ValueError, ["0"]),
    "integers": (prompt(dtype=np.int64), TypeError, ["int64"]),
    "booleans": (prompt(dtype=bool), TypeError, ["bool"]),
    "complex": (prompt(dtype=np.complex64), TypeError, ["complex64"]),
    "objects": (prompt().astype(object), TypeError, ["object"]),
    "texts": (prompt().astype(str), TypeError, []),
    "nan": (with_entry(math.nan), ValueError, ["nan", "1", "7"]),
    "infinity": (with_entry(math.inf), ValueError, ["inf", "1", "7"]),
    "minus-infinity": (with_entry(-math.inf), ValueError, ["inf", "1", "7"]),
    "float64-beyond-float32": (with_entry(1.0).astype(np.float64) * 1e300, ValueError, []),
    "ragged": ([[1.0] * WIDTH, [1.0]], ValueError, []),
    "a-text": ("Review:", TypeError, []),
    "a-number": (20, (TypeError, ValueError), []),
    "a-dict": ({"prompt": prompt()}, TypeError, []),
}

PROMPT_CALLS = {
    "loss_and_grad": lambda model, bad: model.loss_and_grad(bad, GOOD),
    "loss": lambda model, bad: model.loss(bad, GOOD),
    "logits": lambda model, bad: model.logits([[5]], bad),
    "log_likelihood": lambda model, bad: model.log_likelihood([[5]], [[6]], bad),
    "rank": lambda model, bad: model.rank([[5]], [[6], [7]], bad),
    "ranking_loss_and_grad": lambda model, bad: model.ranking_loss_and_grad(
        bad, [[5]], [[6], [7]], [0]
    ),
    "generate": lambda model, bad: model.generate([[5]], bad, return_ids=True),
}


@pytest.mark.parametrize("call", list(PROMPT_CALLS))
@pytest.mark.parametrize("name", list(BAD_PROMPTS))
def test_bad_prompt(model, name, call):
    bad, kind, words = BAD_PROMPTS[name]
    if isinstance(bad, list) and call in {"loss_and_grad", "generate", "rank", "logits"}:
        pytest.skip("a list is several prompts here")
    with pytest.raises(kind) as caught:
        PROMPT_CALLS[call](model, bad)
    for word in words:
        assert word in str(caught.value).lower()


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4", ">f8"])
def test_other_floating_types_are_converted(model, dtype):
    expected = model.loss_and_grad(prompt(), GOOD)
    loss, grad = model.loss_and_grad(prompt().astype(dtype), GOOD)
    assert loss == expected[0]
    assert grad.tobytes() == expected[1].tobytes()
    assert grad.dtype == np.float32


# --- token ids ------------------------------------------------------------------------------------

BAD_IDS = {
    "negative": ([5, -1, 6], (ValueError, IndexError), ["-1", "97"]),
    "first-beyond-the-vocabulary": ([97], (ValueError, IndexError), ["97"]),
    "beyond-the-vocabulary": ([5, 49152], (ValueError, IndexError), ["49152", "97"]),
    "beyond-int32": ([2**31], (ValueError, IndexError, OverflowError), ["2147483648", "97"]),
    "folds-to-a-good-id": ([2**32 + 5], (ValueError, IndexError, OverflowError), ["4294967301"]),
    "beyond-int64": ([2**64], (ValueError, IndexError, OverflowError), []),
    "far-beyond": ([10**40], (ValueError, IndexError, OverflowError), []),
    "lowest-int64": ([-(2**63)], (ValueError, IndexError, OverflowError), ["-9223372036854775808"]),
    "uint64": (np.array([2**63], np.uint64), (ValueError, IndexError, OverflowError), []),
    "float": ([5.0, 6.0], (TypeError, ValueError), []),
    "fraction": ([5.5], (TypeError, ValueError), []),
    "nan": ([math.nan], (TypeError, ValueError), []),
    "float-array": (np.array([5.0]), (TypeError, ValueError), ["float64"]),
    "boolean-array": (np.array([True]), (TypeError, ValueError), ["bool"]),
    "texts": (["5"], (TypeError, ValueError), []),
    "none": ([None], (TypeError, ValueError), []),
    "nested": ([[5]], (TypeError, ValueError), []),
    "two-axes": (np.array([[5, 6]]), (TypeError, ValueError), []),
    "a-number": (5, (TypeError, ValueError), ["5"]),
    "nothing": (None, (TypeError, ValueError), ["None"]),
}

INPUT_CALLS = {
    "loss_and_grad": lambda model, bad: model.loss_and_grad(prompt(), [*GOOD, (bad, [8])]),
    "loss_and_grad-target": lambda model, bad: model.loss_and_grad(prompt(), [*GOOD, ([8], bad)]),
    "loss": lambda model, bad: model.loss(prompt(), [*GOOD, (bad, [8])]),
    "logits": lambda model, bad: model.logits([[5], bad]),
    "logits-with-a-prompt": lambda model, bad: model.logits([[5], bad], prompt()),
    "log_likelihood": lambda model, bad: model.log_likelihood([[5], bad], [[6], [7]]),
    "log_likelihood-target": lambda model, bad: model.log_likelihood([[5], [6]], [[6], bad]),
    "rank": lambda model, bad: model.rank([[5], bad], [[6], [7]]),
    "rank-choice": lambda model, bad: model.rank([[5], [6]], [[6], bad]),
    "ranking_loss_and_grad": lambda model, bad: model.ranking_loss_and_grad(
        prompt(), [[5], bad], [[6], [7]], [0, 1]
    ),
    "ranking_loss_and_grad-choice": lambda model, bad: model.ranking_loss_and_grad(
        prompt(), [[5], [6]], [[6], bad], [0, 1]
    ),
    "generate": lambda model, bad: model.generate([[5], bad], return_ids=True),
    "generate-with-a-prompt": lambda model, bad: model.generate(
        [[5], bad], prompt(), return_ids=True
    ),
}


@pytest.mark.parametrize("call", list(INPUT_CALLS))
@pytest.mark.parametrize("name", list(BAD_IDS))
def test_bad_token_ids(model, name, call):
    bad, kind, words = BAD_IDS[name]
    with pytest.raises(kind) as caught:
        INPUT_CALLS[call](model, bad)
    for word in words:
        assert word in str(caught.value)


def test_the_message_says_where(model):
    with pytest.raises((ValueError, IndexError)) as caught:
        model.loss_and_grad(prompt(), [*GOOD, *GOOD, ([5, 6, 7, 300], [8])])
    # Example 2, token 3, the value, the vocabulary.
    for word in ("2", "3", "300", "97"):
        assert word in str(caught.value)


# --- lengths --------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["loss_and_grad", "loss"])
def test_empty_batch(model, call):
    with pytest.raises(ValueError, match=r"empty|no example|at least one"):
        getattr(model, call)(prompt(), [])


def test_empty_ranking(model):
    with pytest.raises(ValueError, match=r"empty|at least one"):
        model.ranking_loss_and_grad(prompt(), [], [[6], [7]], [])
    with pytest.raises(ValueError, match=r"choice"):
        model.ranking_loss_and_grad(prompt(), [[5]], [], [0])
    with pytest.raises(ValueError, match=r"choice"):
        model.rank([[5]], [])


def test_nothing_asked_nothing_answered(model):
    """A use on no rows is no mistake: it answers nothing."""
    assert model.logits([]) == []
    assert model.generate([], return_ids=True) == []
    assert model.log_likelihood([], []).shape == (0,)
    assert model.rank([], [[6], [7]]).shape == (0, 2)


@pytest.mark.parametrize("call", ["log_likelihood", "rank", "generate"])
def test_empty_input_without_a_prompt(model, call):
    arguments = {
        "logits": ([[5], []],),
        "log_likelihood": ([[5], []], [[6], [7]]),
        "rank": ([[5], []], [[6], [7]]),
        "generate": ([[5], []],),
    }[call]
    with pytest.raises(ValueError, match=r"empty|no token|no row"):
        getattr(model, call)(*arguments)


def test_empty_input_behind_a_prompt(model):
    """The prompt's last row predicts the target's first token."""
    loss, grad = model.loss_and_grad(prompt(), [([], [8])])
    assert math.isfinite(loss)
    assert np.abs(grad).max() > 0
    assert model.log_likelihood([[]], [[8]], prompt())[0] == pytest.approx(-loss, rel=1e-6)
    assert len(model.generate([[]], prompt(), max_new_tokens=3, return_ids=True)) == 1
    assert model.logits([[]], prompt())[0].shape[1] == VOCAB


@pytest.mark.parametrize("bad", [[], (), np.array([], dtype=np.int64)])
def test_target_without_tokens(model, bad):
    with pytest.raises(ValueError, match=r"target|empty|no token"):
        model.loss_and_grad(prompt(), [*GOOD, ([5], bad)])
    with pytest.raises(ValueError, match=r"target|empty|no token"):
        model.log_likelihood([[5]], [bad])
    with pytest.raises(ValueError, match=r"choice|empty|no token"):
        model.rank([[5]], [[6], bad])


@pytest.mark.parametrize("call", list(INPUT_CALLS))
def test_longer_than_the_context(model, call):
    with pytest.raises(ValueError, match=str(CONTEXT)):
        INPUT_CALLS[call](model, [5] * (CONTEXT + 2))


def test_the_context_holds_exactly_its_length(model):
    rows = len(prompt())
    fits = [5] * (CONTEXT - rows)
    assert len(model.logits([fits], prompt())[0]) == len(fits)
    # The last target token is predicted and never read.
    assert math.isfinite(model.loss(prompt(), [(fits, [6])]))
    with pytest.raises(ValueError, match=str(CONTEXT)):
        model.logits([[*fits, 5]], prompt())
    with pytest.raises(ValueError, match=str(CONTEXT)):
        model.loss(prompt(), [([*fits, 5], [6])])
    with pytest.raises(ValueError, match=str(CONTEXT)):
        model.logits([[5]], prompt(CONTEXT + 1, WIDTH))


# --- everything else ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad", [None, 5, "text", [5], [None], [([5],)], [([5], [6], [1.0], 7)], [("5", 6)]]
)
def test_examples_of_another_form(model, bad):
    with pytest.raises((TypeError, ValueError)):
        model.loss_and_grad(prompt(), bad)


@pytest.mark.parametrize(
    "weights", [[], [1.0, 2.0], [math.nan], [math.inf], [-1.0], ["a"], [[1.0]], [0.0]]
)
def test_bad_target_weights(model, weights):
    with pytest.raises((TypeError, ValueError)):
        model.loss_and_grad(prompt(), [([5], [6], weights)])


def test_targets_of_another_number(model):
    with pytest.raises(ValueError, match=r"2.*1|1.*2"):
        model.log_likelihood([[5], [6]], [[6]])
    with pytest.raises(ValueError, match=r"2.*1|1.*2"):
        model.ranking_loss_and_grad(prompt(), [[5], [6]], [[6], [7]], [0])
    with pytest.raises(ValueError, match=r"2.*1|1.*2"):
        model.generate([[5], [6]], [prompt()], return_ids=True)
    with pytest.raises(ValueError, match=r"2.*1|1.*2"):
        model.loss_and_grad([prompt(), prompt()], [GOOD])
    with pytest.raises(ValueError, match="2 prompts and 1 lists of targets"):
        model.ranking_loss_and_grad(
            [prompt(), prompt()], [[[5]], [[6]]], [[6], [7]], [[0]]
        )  # fmt: skip
    with pytest.raises(ValueError, match=r"targets\[1\]: 2 for 1 inputs"):
        model.ranking_loss_and_grad([prompt(), prompt()], [[[5]], [[6]]], [[6], [7]], [[0], [0, 1]])


@pytest.mark.parametrize("target", [-1, 2, 2**40])
def test_ranking_targets_that_are_no_choice(model, target):
    with pytest.raises((ValueError, IndexError, OverflowError), match=str(target)):
        model.ranking_loss_and_grad(prompt(), [[5]], [[6], [7]], [target])


@pytest.mark.parametrize("weights", [[math.nan], [-1.0], [1.0, 2.0], [0.0]])
def test_bad_sample_weights(model, weights):
    with pytest.raises(ValueError, match="weight"):
        model.ranking_loss_and_grad(prompt(), [[5]], [[6], [7]], [0], sample_weight=weights)


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": -1},
        {"max_new_tokens": 2.5},
        {"max_new_tokens": "many"},
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"temperature": 1.0, "top_k": 0},
        {"temperature": 1.0, "top_k": -3},
        {"temperature": 1.0, "top_p": 0.0},
        {"temperature": 1.0, "top_p": 1.5},
        {"temperature": 1.0, "top_p": math.nan},
        {"temperature": 1.0, "seed": -1},
        {"temperature": 1.0, "seed": "seed"},
        {"stream": "yes"},
        {"stop": 5},
        {"stop": [""]},
    ],
    ids=str,
)
def test_bad_generation_options(model, options):
    with pytest.raises((TypeError, ValueError)) as caught:
        model.generate([[5]], return_ids=True, **options)
    (name,) = [n for n in options if n != "temperature" or len(options) == 1]
    assert name in str(caught.value)


@pytest.mark.parametrize("bad", [0, -1, 2.5, "two", None, 10**12])
def test_bad_number_of_threads(model, bad):
    if bad is None:
        pytest.skip("None is the number of processors at hand")
    before = model.num_threads
    with pytest.raises((TypeError, ValueError)):
        model.num_threads = bad
    assert model.num_threads == before


def test_text_without_a_tokenizer(model):
    with pytest.raises((ValueError, RuntimeError, TypeError), match="tokenizer"):
        model.generate(["Once"])
    with pytest.raises((ValueError, RuntimeError, TypeError), match="tokenizer"):
        model.logits(["Once"])


def test_a_text_where_a_list_of_texts_belongs(model):
    with pytest.raises((TypeError, ValueError)):
        model.generate("Once upon a time")


# --- prefixes -------------------------------------------------------------------------------------


def prefix(layers: int = 3, tokens: int = 3, heads: int = 2, width: int = 4) -> softprompt.Prefix:
    return softprompt.Prefix(*np.full((2, layers, tokens, heads, width), 0.5, np.float32))


@pytest.mark.parametrize("call", list(PROMPT_CALLS))
@pytest.mark.parametrize("sizes", [{"layers": 1}, {"heads": 1}, {"width": 5}])
def test_a_prefix_of_another_model(model, sizes, call):
    with pytest.raises(ValueError, match=r"prompt: a prefix of .* expected the model's"):
        PROMPT_CALLS[call](model, prefix(**sizes))


@pytest.mark.parametrize("call", list(PROMPT_CALLS))
def test_a_prefix_fills_the_context(model, call):
    with pytest.raises(ValueError, match=f"longer than the model's context of {CONTEXT}"):
        PROMPT_CALLS[call](model, prefix(tokens=CONTEXT))


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.loss_and_grad(prefix(), [([], [5])]),
        lambda model: model.log_likelihood([[]], [[5]], prefix()),
        lambda model: model.rank([[]], [[5], [6]], prefix()),
        lambda model: model.generate([[]], prefix(), return_ids=True),
    ],
)
def test_nothing_stands_after_a_prefix(model, call):
    """Its positions have no outputs that could predict a token."""
    with pytest.raises(ValueError, match="an empty input after a prefix"):
        call(model)


def test_a_prefix_is_no_prompt(model):
    with pytest.raises(TypeError, match="got a Prefix: it is one already"):
        model.prefix(prefix())
    with pytest.raises(TypeError, match="no rows in the space of the vocabulary"):
        softprompt.neighbors(prefix(), model)
    with pytest.raises(TypeError, match=r"prompts\['0'\]: a prefix has keys and values"):
        softprompt.similarity([prefix(), prompt()])


NO_PREFIX = (np.ones((3, 2, 3, 8), np.float32), np.array([0, 3], np.int32))


@pytest.mark.parametrize(
    ("bad", "kind", "words"),
    [
        ([], TypeError, "prefix: expected None or a tuple"),
        ((NO_PREFIX[0],), TypeError, "2 arguments|exactly 2"),
        ((NO_PREFIX[0][:, :, :, :7].copy(), NO_PREFIX[1]), ValueError, "prefix.*8"),
        ((NO_PREFIX[0][:1], NO_PREFIX[1]), ValueError, "prefix.*3"),
        ((NO_PREFIX[0][:, :1].copy(), NO_PREFIX[1]), ValueError, "prefix.*2"),
        ((NO_PREFIX[0][0], NO_PREFIX[1]), TypeError, "prefix"),
        ((NO_PREFIX[0].astype(np.float64), NO_PREFIX[1]), TypeError, "prefix"),
        ((NO_PREFIX[0], NO_PREFIX[1].astype(np.int64)), TypeError, "prefix_starts"),
        ((NO_PREFIX[0], np.array([0, 2], np.int32)), ValueError, "the last of them 3"),
        ((NO_PREFIX[0], np.array([0], np.int32)), ValueError, "prefix_starts: expected two"),
        ((NO_PREFIX[0], np.array([0, 1, 3], np.int32)), ValueError, "2 prefixes, but 1 segments"),
    ],
)
def test_the_engines_own_prefixes(model, bad, kind, words):
    forest = tuple(np.array(a, np.int32) for a in ([-1, 0], [0, 0, 2], [5, 6]))
    rows = np.array([1], np.int32)
    with model._workers.lend() as worker:
        assert worker.context.logits(forest, None, NO_PREFIX, rows, 1, 64).shape == (1, VOCAB)
        with pytest.raises(kind, match=words):
            worker.context.logits(forest, None, bad, rows, 1, 64)
        segment = worker.context.segment_create(-1, 2)
        with pytest.raises(ValueError, match="num_rows = 3: expected 1 to 2"):
            worker.context.segment_fill(segment, NO_PREFIX[0])
        with pytest.raises((TypeError, ValueError)):
            worker.context.segment_fill(segment, NO_PREFIX[0][0])
        worker.context.segment_release(segment)
