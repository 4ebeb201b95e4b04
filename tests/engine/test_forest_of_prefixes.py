"""The packer puts sequences with one prefix under one segment without rows."""

from __future__ import annotations

import numpy as np

from softprompt.model.forest import pack

TEXTS = [
    np.array(t, np.int32)
    for t in ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 7], [9, 8], [1, 2, 3, 4, 5, 6], [3])
]


def roots(forest) -> list[int]:
    """The root of every sequence's last segment."""
    found = []
    for own in forest.rows:
        segment = int(np.searchsorted(forest.starts, own[-1], side="right")) - 1
        while forest.parents[segment] >= 0:
            segment = int(forest.parents[segment])
        found.append(segment)
    return found


def test_each_prefix_has_a_tree():
    forest = pack(TEXTS, prefixes=[1, 1, 0, -1, 1])
    empty = np.flatnonzero(np.diff(forest.starts) == 0)
    assert forest.prefixes == (0, 1)
    assert (forest.parents[empty] == -1).all()
    of_number = dict(zip(forest.prefixes, empty.tolist(), strict=True))
    found = roots(forest)
    assert [found[i] for i in (0, 1, 4)] == [of_number[1]] * 3
    assert found[2] == of_number[0]
    assert found[3] not in of_number.values()
    for own, text in zip(forest.rows, TEXTS, strict=True):
        np.testing.assert_array_equal(forest.symbols[own], text)
    rows = [set(own.tolist()) for own in forest.rows]
    assert rows[0] & rows[1]  # a common beginning is shared under one prefix
    assert not rows[0] & rows[3]  # and not with the same text without it


def test_a_prefix_stands_in_every_class():
    forest = pack(TEXTS, prefixes=[0, 0, 0, -1, -1], classes=[0, 1, 1, 0, 0])
    assert forest.prefixes == (0, 0)
    assert forest.classes is not None
    empty = np.flatnonzero(np.diff(forest.starts) == 0)
    assert forest.classes[empty].tolist() == [0, 1]
    parents = forest.parents
    below = parents >= 0
    assert (forest.classes[parents[below]] == forest.classes[below]).all()
    for own, text in zip(forest.rows, TEXTS, strict=True):
        np.testing.assert_array_equal(forest.symbols[own], text)


def test_without_prefixes_nothing_changes():
    plain, none = pack(TEXTS), pack(TEXTS, prefixes=[-1] * len(TEXTS))
    np.testing.assert_array_equal(plain.parents, none.parents)
    np.testing.assert_array_equal(plain.starts, none.starts)
    assert none.prefixes == ()
    assert none.classes is None
