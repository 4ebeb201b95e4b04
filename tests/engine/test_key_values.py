"""Keys and values of resident segments: the same however they were computed, and checked."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from softprompt import _core

NONE = np.zeros(0, np.int32)


def extend(context, segments, lengths, symbols, matrix, threads=1):
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return context.segment_extend(
        np.array(segments, np.int32), starts, np.array(symbols, np.int32), matrix, NONE, threads
    )


@pytest.fixture
def context(case):
    return _core.Context(case.model._workers.core)


def symbols(case) -> list[int]:
    """The prompt, then a text."""
    return [*(-1 - np.arange(len(case.prompt))), *case.inputs[0][:20]]


@pytest.mark.parametrize("threads", [2, 3])
def test_number_of_threads_changes_no_bit(case, context, threads):
    rows = symbols(case)
    found = []
    for count in (1, threads):
        segment = context.segment_create(-1, len(rows))
        extend(context, [segment], [len(rows)], rows, case.prompt, count)
        found.append(context.segment_key_values(segment))
        context.segment_release(segment)
    for one, other in zip(*found, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, other)


def test_row_by_row_and_in_two_segments(case, context):
    """Rounding depends on the shape of a product: 1e-5 of the norm, as for everything."""
    rows = symbols(case)
    whole, growing, first = (context.segment_create(-1, len(rows) + 3) for _ in range(3))
    extend(context, [whole], [len(rows)], rows, case.prompt)
    for row in rows:
        extend(context, [growing], [1], [row], case.prompt)
    extend(context, [first], [15], rows[:15], case.prompt)
    second = context.segment_create(first, len(rows))
    extend(context, [second], [len(rows) - 15], rows[15:], case.prompt)
    expected = context.segment_key_values(whole)
    assert expected[0].shape == (
        case.model.config.num_layers, len(rows), case.model.spec.size("kv"),
    )  # fmt: skip
    grown = context.segment_key_values(growing)
    parts = [context.segment_key_values(segment) for segment in (first, second)]
    for i, whole_rows in enumerate(expected):
        allowed = 1e-5 * np.linalg.norm(whole_rows)
        assert np.linalg.norm(grown[i] - whole_rows) < allowed
        joined = np.concatenate([parts[0][i], parts[1][i]], axis=1)
        assert np.linalg.norm(joined - whole_rows) < allowed


def test_they_are_copies(case, context):
    rows = symbols(case)
    segment = context.segment_create(-1, len(rows))
    extend(context, [segment], [len(rows) - 1], rows[:-1], case.prompt)
    keys, values = context.segment_key_values(segment)
    before = keys.copy(), values.copy()
    keys[:] = 7
    extend(context, [segment], [1], rows[-1:], case.prompt)
    again, _ = context.segment_key_values(segment)
    np.testing.assert_array_equal(again[:, :-1], before[0])
    context.segment_release(segment)
    del context
    gc.collect()
    np.testing.assert_array_equal(values, before[1])


def test_an_empty_segment_has_none(case, context):
    segment = context.segment_create(-1, 4)
    keys, values = context.segment_key_values(segment)
    assert keys.shape == values.shape == (4, 0, case.model.spec.size("kv"))


@pytest.mark.parametrize("segment", [-1, 0, 5, 2**31 - 1])
def test_segments_that_are_not_there(context, segment):
    with pytest.raises(ValueError, match=f"segment = {segment} is not a resident segment"):
        context.segment_key_values(segment)


def test_released_segments_and_other_arguments(context):
    segment = context.segment_create(-1, 4)
    context.segment_release(segment)
    with pytest.raises(ValueError, match="is not a resident segment"):
        context.segment_key_values(segment)
    for bad in ("0", 0.5, None, 2**40):
        with pytest.raises((TypeError, OverflowError)):
            context.segment_key_values(bad)
    with pytest.raises(TypeError):
        context.segment_key_values()


def test_a_prefix_releases_its_segment(case):
    def held() -> tuple[object, int]:
        with case.model._workers.lend() as worker:
            return worker.context, worker.context.bytes

    case.model.prefix(case.prompt)
    before = held()
    for _ in range(3):
        case.model.prefix(case.prompt)
        assert held() == before
    with pytest.raises(ValueError, match="longer than the model's context"):
        case.model.prefix(np.ones((513, 96), np.float32))
    assert held() == before
