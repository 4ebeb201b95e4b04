"""The result of `similarity`: a matrix that prints well."""

from __future__ import annotations

import html
from dataclasses import dataclass

import numpy as np

_TITLES = {
    "average": "Cosine similarity of the prompts' average vectors",
    "per_token": "Average cosine similarity of the prompts' vectors, pair by pair",
}
_MAX_NAME = 32


@dataclass(frozen=True, eq=False, repr=False)
class SimilarityTable:
    """How alike prompts are.

    Attributes
    ----------
    metric : {"average", "per_token"}
    names : tuple of str
        Of the prompts.
    values : numpy.ndarray
        float64 `[len(names), len(names)]`, symmetric, -1 to 1.
    """

    metric: str
    names: tuple[str, ...]
    values: np.ndarray

    def to_dict(self) -> dict[str, object]:
        """Return the data as JSON values.

        Returns
        -------
        dict
            `metric`, `names` and `values`, a list of rows.
        """
        return {
            "metric": self.metric,
            "names": list(self.names),
            "values": self.values.tolist(),
        }

    def __len__(self) -> int:
        return len(self.names)

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        """Give `values` to NumPy."""
        return np.array(self.values, dtype=dtype, copy=copy)

    def __str__(self) -> str:
        names = [_short(name) for name in self.names]
        width = max(map(len, names)) + len(str(len(names))) + 1
        columns = [str(i + 1) for i in range(len(names))]
        lines = [_TITLES[self.metric], " " * width + "".join(f"{c:>8}" for c in columns)]
        for i, (name, row) in enumerate(zip(names, self.values, strict=True)):
            lines.append(f"{i + 1} {name}".ljust(width) + "".join(f"{_shown(v):>8}" for v in row))
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(_short(name))}</th>" for name in self.names)
        body = "".join(
            f"<tr><th>{html.escape(_short(name))}</th>"
            + "".join(f"<td>{_shown(value)}</td>" for value in row)
            + "</tr>"
            for name, row in zip(self.names, self.values, strict=True)
        )
        return (
            f"<table><caption>{_TITLES[self.metric]}</caption>"
            f"<thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"
        )


def _short(name: str) -> str:
    # The end of a path says more than its beginning.
    return name if len(name) <= _MAX_NAME else "..." + name[3 - _MAX_NAME :]


def _shown(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"  # no -0.000
