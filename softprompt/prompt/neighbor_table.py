"""The result of `neighbors`: data that prints well."""

from __future__ import annotations

import html
import unicodedata
from dataclasses import dataclass

NOTE = (
    "Neighbours describe where a row lies; they do not explain what it does "
    "(Lester et al. 2021, section 7)."
)
_VALUE_NAMES = {"cosine": "similarity", "euclidean": "distance"}
_TITLES = {"cosine": "cosine similarity", "euclidean": "Euclidean distance"}
_MAX_TEXT = 24


@dataclass(frozen=True)
class Neighbor:
    """A vocabulary token near a row.

    Attributes
    ----------
    token_id : int
    token : str or None
        Its text, leading space included; None without a tokenizer.
    value : float
        Cosine similarity or Euclidean distance.
    """

    token_id: int
    token: str | None
    value: float


@dataclass(frozen=True)
class NeighborRow:
    """A row of a prompt and its neighbours, nearest first.

    Attributes
    ----------
    row : int
        Index of the virtual token.
    norm : float
        Euclidean norm of the row.
    cosine, euclidean : tuple of Neighbor
        Empty where that metric was not asked for.
    """

    row: int
    norm: float
    cosine: tuple[Neighbor, ...] = ()
    euclidean: tuple[Neighbor, ...] = ()


@dataclass(frozen=True, repr=False)
class NeighborTable:
    """The nearest vocabulary tokens of every row of a prompt.

    They are a description, not an explanation: see the note under the table.

    Attributes
    ----------
    k : int
        Neighbours of each row.
    metric : {"both", "cosine", "euclidean"}
    rows : tuple of NeighborRow
    """

    k: int
    metric: str
    rows: tuple[NeighborRow, ...]

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics in the table."""
        return tuple(_TITLES) if self.metric == "both" else (self.metric,)

    def to_dict(self) -> dict[str, object]:
        """Return the data as JSON values.

        Returns
        -------
        dict
            `k`, `metric`, `note` and `rows`: a list of dicts with `row`, `norm` and, for each
            metric, a list of dicts with `token_id`, `token` and `similarity` or `distance`.
        """
        return {
            "k": self.k,
            "metric": self.metric,
            "note": NOTE,
            "rows": [
                {
                    "row": row.row,
                    "norm": row.norm,
                    **{
                        metric: [
                            {
                                "token_id": near.token_id,
                                "token": near.token,
                                _VALUE_NAMES[metric]: near.value,
                            }
                            for near in getattr(row, metric)
                        ]
                        for metric in self.metrics
                    },
                }
                for row in self.rows
            ],
        }

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        blocks = []
        for metric in self.metrics:
            lines = [["row", "norm", *(str(i + 1) for i in range(self.k))]]
            lines += [
                [str(row.row), f"{row.norm:.3g}", *map(_cell, getattr(row, metric))]
                for row in self.rows
            ]
            blocks.append(f"Nearest tokens by {_TITLES[metric]}\n" + _aligned(lines))
        return "\n\n".join([*blocks, NOTE])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        parts = []
        for metric in self.metrics:
            head = "".join(f"<th>{i + 1}</th>" for i in range(self.k))
            body = "".join(
                f"<tr><td>{row.row}</td><td>{row.norm:.3g}</td>"
                + "".join(_html_cell(near) for near in getattr(row, metric))
                + "</tr>"
                for row in self.rows
            )
            parts.append(
                f"<table><caption>Nearest tokens by {_TITLES[metric]}</caption>"
                f"<thead><tr><th>row</th><th>norm</th>{head}</tr></thead>"
                f"<tbody>{body}</tbody></table>"
            )
        return f"<div>{''.join(parts)}<p><small>{html.escape(NOTE)}</small></p></div>"


def _shown(near: Neighbor) -> str:
    # repr makes spaces, line ends and invisible characters visible.
    if near.token is None:
        return str(near.token_id)
    text = near.token if len(near.token) <= _MAX_TEXT else near.token[: _MAX_TEXT - 3] + "..."
    return repr(text)


def _cell(near: Neighbor) -> str:
    return f"{_shown(near)} {near.value:.3g}"


def _html_cell(near: Neighbor) -> str:
    return (
        f'<td title="id {near.token_id}"><code style="white-space: pre">'
        f"{html.escape(_shown(near))}</code> {near.value:.3g}</td>"
    )


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def _width(text: str) -> int:
    """Columns of a terminal: East Asian wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )
