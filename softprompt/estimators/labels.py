"""Classes and the texts that stand for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from softprompt.estimators.rows import collect_values


class Labels:
    """The classes of a task, sorted, and one text for each.

    Attributes
    ----------
    classes : ndarray of shape (num_classes,)
        Sorted, as scikit-learn's ``classes_``.
    texts : list of str
        The label text of each class, in the order of `classes`.
    """

    def __init__(self, texts: Mapping[Any, str]) -> None:
        if len(texts) < 2:
            raise ValueError(
                f"a classifier needs at least two classes, got {len(texts)}: {list(texts)}"
            )
        self.classes = _sorted_array(texts)
        keys = self.classes.tolist()
        self.texts = [_check_text(texts[key], key) for key in keys]
        self._index = {key: index for index, key in enumerate(keys)}
        first_of: dict[str, Any] = {}
        for key, text in zip(keys, self.texts, strict=True):
            if text in first_of:
                raise ValueError(
                    f"labels gives the classes {first_of[text]!r} and {key!r} the same text "
                    f"{text!r}, so that they cannot be told apart"
                )
            first_of[text] = key

    @classmethod
    def resolve(cls, labels: Any, y: Any, *, blank: bool) -> Labels:
        """Return the labels that an estimator's parameter `labels` means.

        Parameters
        ----------
        labels : dict, sequence of str, or None
            Class -> text; or the texts, which are then the classes themselves; or None: the
            classes are those in `y`, and the text of one is its name.
        y : list
            Class of every row, as `collect_values` returns it; read only if `labels` is None.
        blank : bool
            Whether a name that `labels` does not give is put after a blank. Most tokenizers
            hold a word and the blank before it in one token.

        Raises
        ------
        TypeError, ValueError
            If `labels` is of another type, a text is missing, empty, or given twice.
        """
        if labels is None:
            return cls({value: (" " if blank else "") + str(value) for value in _classes_in(y)})
        if isinstance(labels, Mapping):
            return cls({_plain(key): text for key, text in labels.items()})
        if isinstance(labels, (str, bytes)) or not isinstance(labels, Iterable):
            raise TypeError(
                "labels must be a dict of class -> text, a list of texts, or None; got "
                f"{type(labels).__name__} {labels!r}"
            )
        texts = collect_values(labels, name="labels")
        for position, text in enumerate(texts):
            _check_text(text, position)
            if text in texts[:position]:
                raise ValueError(f"labels holds {text!r} twice")
        return cls({text: text for text in texts})

    def encode(self, y: Any, *, name: str = "y") -> np.ndarray:
        """Return the index into `classes` for each value of `y`.

        Returns
        -------
        ndarray of shape (n,), intp

        Raises
        ------
        TypeError
            If `y` is no collection of values.
        ValueError
            If a value is no class.
        """
        values = collect_values(y, name=name)
        indices = np.empty(len(values), np.intp)
        for row, value in enumerate(values):
            # 1, 1.0 and True are one dictionary key, as they are one class to scikit-learn.
            index = self._index.get(value) if isinstance(value, (str, bool, int, float)) else None
            if index is None:
                raise ValueError(self._unknown(f"{name}[{row}]", value))
            indices[row] = index
        return indices

    def encode_texts(
        self, encode: Callable[[str], list[int]], *, length_normalize: bool
    ) -> list[list[int]]:
        """Return the token ids of every label text.

        Parameters
        ----------
        encode : callable
            From a text to its ids, without special tokens.
        length_normalize : bool
            Whether log-likelihoods will be divided by the number of tokens.

        Raises
        ------
        ValueError
            If a text gives no tokens, two give the same, or one is the beginning of another
            although that one could then never be predicted.
        """
        ids = [list(encode(text)) for text in self.texts]
        for text, own in zip(self.texts, ids, strict=True):
            if not own:
                raise ValueError(f"label {text!r} gives no tokens")
        for i, shorter in enumerate(ids):
            for j, longer in enumerate(ids):
                if i == j or longer[: len(shorter)] != shorter:
                    continue
                pair = f"labels {self.texts[i]!r} and {self.texts[j]!r}"
                if len(longer) == len(shorter):
                    raise ValueError(f"{pair} are the same tokens {shorter} to this model")
                if not length_normalize:
                    raise ValueError(
                        f"{pair} begin with the same tokens {shorter}, which are all of the "
                        f"first: it is never less likely than the second, so that class "
                        f"{self.classes.tolist()[j]!r} would never be predicted. Choose other "
                        "texts, or length_normalize=True"
                    )
        return ids

    def as_dict(self) -> dict[Any, str]:
        """Return class -> text, with plain Python values as keys."""
        return dict(zip(self.classes.tolist(), self.texts, strict=True))

    def _unknown(self, where: str, value: Any) -> str:
        message = f"{where} = {value!r} is not a class; labels has {self.classes.tolist()}"
        if isinstance(value, int) and all(isinstance(key, str) for key in self._index):
            message += "; for classes that are numbers pass labels as a dict, {0: text, 1: text}"
        return message


def _check_text(text: Any, key: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(f"labels[{key!r}] must be a text, got {type(text).__name__} {text!r}")
    if not text.strip():
        raise ValueError(f"labels[{key!r}] must be a text that can be told from none, got {text!r}")
    return str(text)


def _plain(key: Any) -> Any:
    return key.item() if isinstance(key, np.generic) else key


def _classes_in(y: Iterable[Any]) -> dict[Any, None]:
    """Return the different values of `y` as keys, in the order of their first rows."""
    classes: dict[Any, None] = {}
    for row, value in enumerate(y):
        if not isinstance(value, (str, bool, int, float)):
            raise TypeError(
                f"y[{row}] must be a str, an int or a bool, got {type(value).__name__} {value!r}"
            )
        if isinstance(value, float) and not value.is_integer():
            kind = "missing" if value != value else "a measurement"
            raise ValueError(f"y[{row}] = {value!r} is {kind}, no class")
        classes[value] = None
    return classes


def _sorted_array(keys: Iterable[Any]) -> np.ndarray:
    keys = list(keys)
    for key in keys:
        if not isinstance(key, (str, bool, int, float)):
            raise TypeError(
                f"a class must be a str, an int or a bool, got {type(key).__name__} {key!r}"
            )
    try:
        keys.sort()
    except TypeError as err:
        kinds = sorted({type(key).__name__ for key in keys})
        raise TypeError(f"classes must be of one kind to be sorted, got {kinds}: {keys}") from err
    return np.array(keys)
