import copy
import pickle
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from softprompt.prompt import PromptModelMismatchWarning, SoftPrompt, validate_prompt_array

RNG = np.random.default_rng(5)


def array(rows=3, width=4, dtype="f4"):
    return RNG.normal(size=(rows, width)).astype(dtype)


def test_embeddings_are_a_read_only_float32_copy():
    source = array()
    prompt = SoftPrompt(source)
    expected = source.copy()
    source[:] = 0
    np.testing.assert_array_equal(prompt.embeddings, expected)
    assert prompt.embeddings.dtype == np.float32
    assert prompt.embeddings.flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        prompt.embeddings[0, 0] = 1
    assert (prompt.num_virtual_tokens, prompt.hidden_size, len(prompt)) == (3, 4, 3)
    assert prompt.position == "start"
    assert prompt.task is prompt.training is prompt.base_model is None


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "g"])
def test_floating_types_are_converted(dtype):
    source = array(dtype=dtype)
    # Conversion rounds to float32, and float32 values come back as they are.
    np.testing.assert_array_equal(SoftPrompt(source).embeddings, source.astype("f4"))


def test_bfloat16_is_converted():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    source = array().astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(SoftPrompt(source).embeddings, source.astype("f4"))


def test_strided_lists_and_prompts_are_taken():
    source = array(6, 8)[::2, ::-2]
    np.testing.assert_array_equal(SoftPrompt(source).embeddings, source)
    np.testing.assert_array_equal(SoftPrompt(source.tolist()).embeddings, source)
    np.testing.assert_array_equal(SoftPrompt(SoftPrompt(source)).embeddings, source)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (np.zeros(4), ValueError, r"prompt: shape \(4,\), expected two dimensions"),
        (np.zeros((1, 2, 3)), ValueError, r"shape \(1, 2, 3\)"),
        (np.float32(1), ValueError, r"shape \(\)"),
        (np.zeros((0, 4)), ValueError, r"shape \(0, 4\), expected at least one row"),
        (np.zeros((4, 0)), ValueError, r"shape \(4, 0\)"),
        (np.zeros((2, 4), int), TypeError, "dtype int64, expected a real floating type"),
        ([[1, 2]], TypeError, "dtype int64"),
        (np.zeros((2, 4), complex), TypeError, "dtype complex128"),
        (np.zeros((2, 4), bool), TypeError, "dtype bool"),
        ([["a"]], TypeError, "dtype <U1"),
        (None, TypeError, "dtype object"),
        ([[1.0], [1.0, 2.0]], ValueError, "prompt: expected an array"),
        (np.array([[0, 1], [2, np.nan]]), ValueError, "row 1, column 1 is nan"),
        (np.array([[0, -np.inf], [2, 3]]), ValueError, "row 0, column 1 is -inf"),
        (np.array([[0, 1e39]]), ValueError, r"row 0, column 1 is 1e\+39, expected a finite"),
    ],
)
def test_bad_arrays(bad, error, message):
    with pytest.raises(error, match=message):
        SoftPrompt(bad)


def test_validation_names_the_place_and_the_width():
    with pytest.raises(ValueError, match=r"init: shape \(3, 4\), expected rows of 5 values"):
        validate_prompt_array(array(), hidden_size=5, where="init")
    right = array()
    assert validate_prompt_array(right, hidden_size=4) is right


def test_unknown_position():
    with pytest.raises(ValueError, match="position='end': expected one of start, after_bos"):
        SoftPrompt(array(), position="end")


def test_records_are_copied_as_json_values():
    task = {
        "labels": ((np.int64(1), " a"), (2, " b")),
        "score": np.float32(0.5),
        "worst": float("nan"),
        "best": np.array([1.0, np.inf]),
        "on": np.bool_(True),
    }
    prompt = SoftPrompt(array(), task=task)
    assert prompt.task == {
        "labels": [[1, " a"], [2, " b"]],
        "score": 0.5,
        "worst": None,
        "best": [1.0, None],
        "on": True,
    }
    assert type(prompt.task["labels"][0][0]) is int


def test_records_refuse_what_would_not_come_back():
    with pytest.raises(TypeError, match=r"task\['labels'\]: key 0 is int, JSON keys are str"):
        SoftPrompt(array(), task={"labels": {0: " a"}})
    with pytest.raises(TypeError, match=r"training\['f'\]\[1\]: function, expected a value"):
        SoftPrompt(array(), training={"f": [1, lambda: 0]})
    with pytest.raises(TypeError, match="base_model: str, expected a dict or None"):
        SoftPrompt(array(), base_model="gpt2")
    endless = {}
    endless["again"] = endless
    with pytest.raises(ValueError, match="nested more than 32 deep"):
        SoftPrompt(array(), task=endless)


def test_numpy_takes_a_prompt():
    prompt = SoftPrompt(array())
    assert np.asarray(prompt) is prompt.embeddings
    assert np.asarray(prompt, dtype="f8").dtype == np.float64
    copied = np.array(prompt)
    copied[0] = 0
    assert prompt.embeddings[0].any()


@given(st.sampled_from(["start", "after_bos"]), st.none() | st.just({"kind": "x", "list": [1]}))
def test_equality_copies_and_pickles(position, task):
    prompt = SoftPrompt(array(), position=position, task=task)
    for copied in (copy.copy(prompt), copy.deepcopy(prompt), pickle.loads(pickle.dumps(prompt))):
        assert copied == prompt
        assert not copied.embeddings.flags.writeable
    assert prompt != SoftPrompt(prompt.embeddings + 1, position=position, task=task)
    assert prompt != SoftPrompt(prompt.embeddings, position=position, task={"other": 1})
    assert prompt != "prompt"


def test_repr_says_what_it_is():
    prompt = SoftPrompt(array(), task={"kind": "classification"}, base_model={"name_or_path": "m"})
    text = repr(prompt)
    assert text == ("SoftPrompt(3 x 4, position='start', kind='classification', name_or_path='m')")


FACTS = {"name_or_path": "m", "family": "llama", "vocab_size": 9, "fingerprint": "ab" * 32}


class TestCheckModel:
    def model(self, hidden_size=4, vocab_size=9, family="llama", fingerprint="ab" * 32):
        config = SimpleNamespace(hidden_size=hidden_size, vocab_size=vocab_size, family=family)
        return SimpleNamespace(config=config, fingerprint=fingerprint)

    @pytest.mark.parametrize("facts", [None, {}, FACTS, {**FACTS, "name_or_path": "elsewhere/m"}])
    def test_the_same_model(self, facts):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            SoftPrompt(array(), base_model=facts).check_model(self.model())

    def test_another_width(self):
        with pytest.raises(ValueError, match=r"shape \[3, 4\]: the model's hidden_size is 5.*'m'"):
            SoftPrompt(array(), base_model=FACTS).check_model(self.model(hidden_size=5))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"vocab_size": 8}, "vocab_size 9, the model has 8"),
            ({"family": "gpt2"}, "family 'llama', the model has 'gpt2'"),
            ({"fingerprint": "cd" * 32}, "fingerprint abababababab, the model has cdcdcdcdcdcd"),
        ],
    )
    def test_another_model(self, change, message):
        prompt = SoftPrompt(array(), base_model=FACTS)
        with pytest.warns(PromptModelMismatchWarning, match=message) as caught:
            prompt.check_model(self.model(**change))
        assert len(caught) == 1
        assert caught[0].filename == __file__

    def test_the_fingerprint_is_asked_for_only_if_needed(self):
        class Model:
            config = self.model().config

            @property
            def fingerprint(self):
                raise AssertionError("reads weights")

        facts = {**FACTS, "fingerprint": None}
        SoftPrompt(array(), base_model=facts).check_model(Model())
