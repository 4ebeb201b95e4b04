"""Weights that stay in their file: the same model as the one with all weights converted.

Both forms multiply the same float32 numbers. What differs is how the columns of a product are cut
where blocks are larger than the usual cut, and so nothing or the rounding of a sum: 1e-6 of the
largest logit and of the loss, 1e-5 of the gradient's norm.
"""

from __future__ import annotations

import os
import pickle

import decoders
import gguf
import numpy as np
import pytest
import tiny
from loading.gguf_files import write_gguf
from safetensors.numpy import load_file, save_file
from stored_blocks import BLOCK_TYPES, random_matrix

import softprompt
from softprompt import _core
from softprompt.model import load
from softprompt.model.stored import StoredMatrix

# Rows are whole blocks, and products are cut into several parts: of whole blocks where these are
# large, otherwise of unequal ones.
WIDE = {"hidden_size": 512, "intermediate_size": 768, "num_attention_heads": 8, "head_dim": 64}
NARROW = {"hidden_size": 160, "intermediate_size": 672, "num_attention_heads": 5, "head_dim": 32}
SIZES = {"vocab_size": 307, "num_hidden_layers": 2, "tie_word_embeddings": False}
TYPES = ["F16", "BF16", *BLOCK_TYPES]
PATHS = [name for name in ("generic", "avx2", "avx512") if _core.cpu_supported(name)]


def is_large(kind: str) -> bool:
    return gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][0] > 32


def write_model(folder, kinds: list[str], *, seed: int = 0):
    """Write a GGUF whose matrices have these types in turn."""
    widths = WIDE if any(map(is_large, kinds)) else NARROW
    changes = SIZES | widths | {"num_key_value_heads": 1}
    source = tiny.write_tiny(folder / "source", "llama", changes=changes)
    rng = np.random.default_rng(seed)
    turn = [0]

    def packed(name, shape):
        kind = kinds[turn[0] % len(kinds)]
        turn[0] += 1
        rms = 0.8 if name.startswith("token") else 2.0 / np.sqrt(shape[1])
        return random_matrix(kind, shape, rms, rng), kind

    return write_gguf(source, folder / "model.gguf", packed=packed)


def both(path, **options):
    """The model in both forms, computing the same rows together."""
    models = [softprompt.load_model(path, weights=w, **options) for w in ("stored", "float32")]
    models[0]._workers.pack_rows = models[1]._workers.pack_rows
    return models


def examples(vocab_size: int, seed: int = 3) -> list[tuple[list[int], list[int]]]:
    rng = np.random.default_rng(seed)
    return [
        (rng.integers(3, vocab_size, n).tolist(), rng.integers(3, vocab_size, m).tolist())
        for n, m in ((1, 1), (30, 2), (17, 1), (45, 3), (30, 1))
    ]


def random_prompt(model, rows: int = 7) -> np.ndarray:
    rng = np.random.default_rng(4)
    return model.embeddings[rng.integers(0, len(model.embeddings), rows)] * np.float32(0.9)


def assert_equal_models(stored, plain) -> None:
    prompt, batch = random_prompt(plain), examples(plain.spec.vocab_size)
    for rows in (prompt, None):
        texts = [i + t for i, t in batch]
        for a, b in zip(stored.logits(texts, rows), plain.logits(texts, rows), strict=True):
            assert np.abs(a - b).max() <= 1e-6 * np.abs(b).max()
    (loss, grad), (plain_loss, plain_grad) = (
        model.loss_and_grad(prompt, batch) for model in (stored, plain)
    )
    assert abs(loss - plain_loss) <= 1e-6 * abs(plain_loss)
    assert np.linalg.norm(plain_grad) > 0
    assert np.linalg.norm(grad - plain_grad) <= 1e-5 * np.linalg.norm(plain_grad)
    # a head of the choices' tokens alone, whose rows are gathered
    choices, inputs = [[5], [9, 4], [11]], [i for i, _ in batch]
    targets = [0, 1, 2, 0, 1]
    got, expected = (
        model.ranking_loss_and_grad(prompt, inputs, choices, targets) for model in (stored, plain)
    )
    assert abs(got[0] - expected[0]) <= 1e-6 * abs(expected[0])
    assert np.linalg.norm(got[1] - expected[1]) <= 1e-5 * np.linalg.norm(expected[1])


@pytest.mark.parametrize("kind", TYPES)
def test_every_type(tmp_path, kind):
    path = write_model(tmp_path, [kind])
    stored, plain = both(path)
    held = {slot for slot, weight in stored.weights.items() if isinstance(weight, StoredMatrix)}
    assert held == {slot for slot, weight in plain.weights.items() if weight.ndim == 2}
    assert {"embedding.weight", "head.weight", "layers.1.down.weight"} < held
    assert set(stored.weight_bytes) == {kind, "F32"}
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name in ("token_embd.weight", "blk.1.attn_q.weight"):
            slot = "embedding" if tensor.name.startswith("token") else "layers.1.q"
            expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            np.testing.assert_array_equal(stored.weights[f"{slot}.weight"], expected)
    assert_equal_models(stored, plain)


@pytest.mark.parametrize("path", PATHS)
def test_every_cpu_path_and_types_side_by_side(tmp_path, path):
    """Neighbours (q, k, v) with blocks of different sizes; every path that this CPU has."""
    _core.initialize(path)
    try:
        kinds = ["Q4_1", "Q6_K", "BF16", "Q4_K", "Q8_0", "F16", "Q5_K"]
        assert_equal_models(*both(write_model(tmp_path, kinds)))
    finally:
        _core.initialize(os.environ.get("SOFTPROMPT_CPU") or None)


@pytest.mark.parametrize("kind", ["Q4_1", "Q6_K", "BF16"])
def test_threads_change_no_bit(tmp_path, kind):
    model = softprompt.load_model(write_model(tmp_path, [kind]))
    prompt, batch = random_prompt(model), examples(307)
    seen = set()
    for threads in (1, 2, 3, 8):
        model.num_threads = threads
        loss, grad = model.loss_and_grad(prompt, batch)
        logits = np.concatenate(model.logits([i for i, _ in batch], prompt))
        seen.add((loss, grad.tobytes(), logits.tobytes()))
    assert len(seen) == 1


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_K"])
def test_few_rows_and_many(tmp_path, kind):
    """Up to 8 rows are multiplied by another kernel; generation is made of such calls."""
    stored, plain = both(write_model(tmp_path, [kind]))
    text = np.random.default_rng(0).integers(3, 307, 20).tolist()
    for rows in (*range(1, 12), 20):
        (a,), (b,) = stored.logits([text[:rows]]), plain.logits([text[:rows]])
        assert np.abs(a - b).max() <= 1e-6 * np.abs(b).max()
    prompt = random_prompt(plain)
    texts = [text[:n] for n in (1, 2, 3, 5, 8, 13)]
    options = {"max_new_tokens": 12, "return_ids": True, "stop": None}
    answers = [model.generate(texts, prompt, **options) for model in (stored, plain)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("kind", ["F16", "BF16"])
@pytest.mark.parametrize("name", list(decoders.CONFIGS))
def test_every_family_in_half_precision(tmp_path, name, kind):
    """Transposed, stacked and interleaved matrices of Hugging Face folders."""
    config = decoders.CONFIGS[name]
    decoders.write_decoder(tmp_path, config, decoders.table_shapes(config), seed=5)
    to_half_precision(tmp_path, kind)
    stored, plain = both(tmp_path)
    assert kind in stored.weight_bytes
    matrices = {slot for slot, weight in plain.weights.items() if weight.ndim == 2}
    held = {slot for slot, weight in stored.weights.items() if isinstance(weight, StoredMatrix)}
    assert held == matrices - {"rope.inv_freq", "alibi.bias"}
    for slot in held:
        np.testing.assert_array_equal(stored.weights[slot], plain.weights[slot])
        np.testing.assert_array_equal(
            stored.weights[slot][[3, 0, 2]], plain.weights[slot][[3, 0, 2]]
        )
    assert stored.fingerprint == plain.fingerprint
    prompt, batch = decoders.prompt(config, 5), decoders.examples(config)
    (loss, grad), (plain_loss, plain_grad) = (
        model.loss_and_grad(prompt, batch) for model in (stored, plain)
    )
    assert abs(loss - plain_loss) <= 1e-6 * abs(plain_loss)
    assert np.linalg.norm(grad - plain_grad) <= 1e-5 * np.linalg.norm(plain_grad)


def to_half_precision(folder, kind: str) -> None:
    """Store the tensors of a folder in another type."""
    import ml_dtypes

    number = np.float16 if kind == "F16" else ml_dtypes.bfloat16
    file = folder / "model.safetensors"
    save_file({n: a.astype(number) for n, a in load_file(file).items()}, file)


def test_float32_is_the_same_in_both_forms(tmp_path):
    folder = tiny.write_tiny(tmp_path, "gpt2")
    stored, plain = both(folder)
    assert set(stored.weight_bytes) == {"F32"}
    assert stored.weight_bytes == plain.weight_bytes
    prompt, batch = random_prompt(plain), examples(61)
    (loss, grad), (plain_loss, plain_grad) = (
        model.loss_and_grad(prompt, batch) for model in (stored, plain)
    )
    assert loss == plain_loss
    np.testing.assert_array_equal(grad, plain_grad)


def test_embeddings_by_every_index(tmp_path):
    stored, plain = both(write_model(tmp_path, ["Q5_1"]))
    a, b = stored.embeddings, plain.embeddings
    assert a.shape == b.shape == (307, 160)
    mask = np.zeros(307, dtype=bool)
    mask[[4, 200]] = True
    for index in (5, -1, slice(3, 9), slice(None, None, -50), [1, 1, 306], mask,
                  np.array([[1, 2], [3, 4]]), np.array([], dtype=int)):  # fmt: skip
        got = a[index]
        np.testing.assert_array_equal(got, b[index])
        assert got.dtype == np.float32
        got += 1  # a copy: nothing is written into the file
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    for bad in (307, -308, [0, 307]):
        with pytest.raises(IndexError):
            a[bad]


def test_sharing_pickling_and_fingerprint(tmp_path):
    path = write_model(tmp_path, ["Q8_0"])
    stored, plain = both(path)
    assert stored.fingerprint == plain.fingerprint
    again = pickle.loads(pickle.dumps(stored))
    slot = "layers.0.q.weight"
    assert again.weights[slot] is stored.weights[slot]
    assert isinstance(again.weights[slot], StoredMatrix)
    assert plain.weights[slot] is softprompt.load_model(path, weights="float32").weights[slot]
    assert len([key for key in load._loaded if str(path.resolve()) in str(key)]) == 2


def test_a_type_that_the_engine_does_not_know(tmp_path, monkeypatch):
    """A library that knows more types converts them, and they are held as float32."""
    path = write_model(tmp_path, ["MXFP4", "Q4_1"])
    for module in ("weights", "stored"):
        known = frozenset({"Q4_1"})
        monkeypatch.setattr(f"softprompt.model.{module}.ENGINE_TYPES", known)
    stored, plain = both(path)
    assert set(stored.weight_bytes) == {"F32", "Q4_1"}
    assert set(plain.weight_bytes) == {"F32"}
    assert_equal_models(stored, plain)


@pytest.mark.parametrize("kind", ["Q4_1", "F16"])
def test_nan_is_refused(tmp_path, kind):
    path = write_model(tmp_path, [kind])
    reader = gguf.GGUFReader(path, "r+")
    tensor = next(t for t in reader.tensors if t.name == "blk.1.ffn_up.weight")
    tensor.data.reshape(-1).view(np.uint16)[0 if kind == "Q4_1" else 5] = 0x7E00
    del tensor, reader
    for weights in ("stored", "float32"):
        with pytest.raises(ValueError, match=r"blk.1.ffn_up.weight' holds nan \(at \[0, "):
            softprompt.load_model(path, weights=weights)


def test_a_file_that_is_truncated_in_use(tmp_path):
    path = write_model(tmp_path, ["Q4_1"])
    model = softprompt.load_model(path)
    batch, prompt = examples(307), random_prompt(model)
    size = path.stat().st_size
    os.truncate(path, size - 5000)
    for call in (
        lambda: model.loss_and_grad(prompt, batch),
        lambda: model.logits([[1, 2]]),
        lambda: model.generate([[1, 2]], max_new_tokens=2, return_ids=True),
        lambda: model.embeddings[3],
    ):
        with pytest.raises(OSError, match=f"truncated.*{size - 5000} bytes are left of {size}"):
            call()


def test_a_file_that_is_replaced_in_use(tmp_path):
    path = write_model(tmp_path, ["Q4_1"])
    model = softprompt.load_model(path)
    batch, prompt = examples(307), random_prompt(model)
    expected = model.loss_and_grad(prompt, batch)
    other = write_model(tmp_path / "other", ["Q4_1"], seed=1)
    os.replace(other, path)
    again = model.loss_and_grad(prompt, batch)
    assert again[0] == expected[0]
    assert softprompt.load_model(path).loss(prompt, batch) != expected[0]


def test_memory_limit_between_the_forms(tmp_path):
    path = write_model(tmp_path, ["Q4_1"])
    stored, plain = both(path)
    taken = [sum(model.weight_bytes.values()) for model in (stored, plain)]
    assert taken[0] < taken[1] / 4
    limit = taken[1] - 1000
    assert softprompt.load_model(path, memory_limit=limit).memory_limit == limit
    message = f"memory_limit = {limit} bytes: the weights alone take {taken[1]}.*stored"
    with pytest.raises(ValueError, match=message):
        softprompt.load_model(path, weights="float32", memory_limit=limit)
    with pytest.raises(ValueError, match=message):
        plain.memory_limit = limit
    stored.memory_limit = limit
    assert stored.loss(random_prompt(plain), examples(307)) > 0
    # so little that the prompt and its texts are computed a few rows at a time
    loss, grad = plain.loss_and_grad(random_prompt(plain), examples(307))
    stored.memory_limit = taken[0] + (4 << 20)
    few, few_grad = stored.loss_and_grad(random_prompt(plain), examples(307))
    assert abs(few - loss) <= 1e-5 * loss
    assert np.linalg.norm(few_grad - grad) <= 1e-4 * np.linalg.norm(grad)


def good_matrix() -> list:
    return ["Q4_1", np.zeros(12 * 40, np.uint8), 12, 64, 0, 12, 12, False]


@pytest.mark.parametrize(
    ("place", "value", "error"),
    [
        (0, "Q9", RuntimeError),
        (0, 3, TypeError),
        (1, np.zeros(12 * 40 - 1, np.uint8), ValueError),
        (1, np.zeros(11 * 40, np.uint8), ValueError),
        (1, np.zeros(0, np.uint8), ValueError),
        (1, np.zeros(12 * 40, np.int8), TypeError),
        (1, np.zeros((12, 40), np.uint8), TypeError),
        (1, np.zeros(24 * 40, np.uint8)[::2], TypeError),
        (1, b"0" * 480, TypeError),
        (2, 0, ValueError),
        (2, 13, ValueError),
        (2, 2**63, OverflowError),
        (3, 63, ValueError),
        (3, 2**31 - 32, ValueError),
        (4, 1, ValueError),
        (4, -1, ValueError),
        (4, 2**62, ValueError),
        (5, 5, ValueError),
        (6, 0, ValueError),
        (7, True, RuntimeError),
    ],
)
def test_matrices_that_do_not_fit(place, value, error):
    matrix = good_matrix()
    out = np.zeros((1, 64), np.float32)
    _core.stored_rows(tuple(matrix), np.zeros(1, np.int64), out)
    matrix[place] = value
    if place == 3:
        out = np.zeros((1, min(value, 64)), np.float32)
    with pytest.raises(error):
        _core.stored_rows(tuple(matrix), np.zeros(1, np.int64), out)


@pytest.mark.parametrize("row", [-1, 12, 2**62, -(2**63)])
def test_rows_that_are_not_there(row):
    with pytest.raises(ValueError, match=r"rows\[1\].*expected a row of 12"):
        _core.stored_rows(
            tuple(good_matrix()), np.array([0, row], np.int64), np.zeros((2, 64), np.float32)
        )


def test_vectors_are_never_stored(tmp_path):
    model = softprompt.load_model(tiny.write_tiny(tmp_path, "llama"))
    weights = dict(model.weights)
    weights["final_norm.weight"] = ("F16", np.zeros(48, np.uint8), 1, 24, 0, 1, 1, False)
    with pytest.raises(ValueError, match=r"final_norm\.weight: expected float32"):
        _core.Model(model.spec.engine_dict(), weights)
    weights["final_norm.weight"] = model.weights["final_norm.weight"]
    weights["embedding.weight"] = ("F16", np.zeros(48, np.uint8), 1, 24, 0, 1, 1, False)
    with pytest.raises(ValueError, match=r"embedding.weight: shape \[1, 24\]"):
        _core.Model(model.spec.engine_dict(), weights)
