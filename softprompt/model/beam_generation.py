"""Beam search over resident segments: beams of one text are siblings, all texts in one pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from softprompt.model.beams import BeamOptions, BeamSearch, log_softmax
from softprompt.model.demands import Demands
from softprompt.model.frozen import FrozenModel
from softprompt.model.resident import Resident, Text, advance, branch, prefill
from softprompt.model.sequences import PromptTable
from softprompt.model.workers import Worker

__all__ = ["search"]


@dataclass
class _Beams:
    """The running sequences of one text, each with its segment, and segments to be used again."""

    search: BeamSearch
    running: list[Text]
    spare: list[Text] = field(default_factory=list)

    def step(self, resident: Resident, logits: np.ndarray, demands: Demands) -> None:
        """Choose the next tokens by logits of shape (len(running), vocab_size)."""
        log_probs = log_softmax(logits)
        demands.apply(log_probs, self.running)
        chosen = self.search.step(log_probs)
        going_on = {parent for parent, _ in chosen}
        self.spare += [beam for i, beam in enumerate(self.running) if i not in going_on]
        running = []
        for parent, _ in chosen:
            if parent in going_on:  # the first continuation keeps the segment
                going_on.remove(parent)
                running.append(self.running[parent])
            else:
                spare = self.spare.pop() if self.spare else None
                running.append(branch(resident, self.running[parent], spare))
        for beam, (_, token) in zip(running, chosen, strict=True):
            beam.new.append(token)
        self.running = running


def search(
    model: FrozenModel,
    worker: Worker,
    table: PromptTable,
    texts: list[Text],
    options: BeamOptions,
    has_ended: Callable[[list[int]], bool] | None,
) -> list[BeamSearch]:
    """Search for the continuations of texts that may have at least one new token.

    Returns
    -------
    list of BeamSearch
        One for every text, done.
    """
    end_ids = getattr(model.config, "eos_token_ids", ())
    demands = Demands(model.config)
    resident = Resident(model, worker, table)
    try:
        logits = prefill(resident, texts)
        searches = [
            BeamSearch(
                options,
                limit=text.limit,
                end_ids=end_ids,
                has_ended=has_ended,
                beginning=text.new,
            )
            for text in texts
        ]
        active = [
            _Beams(one, [text]) for one, text in zip(searches, texts, strict=True) if not one.done
        ]
        logits = logits[[not one.done for one in searches]]
        while active:
            start = 0
            for beams in active:
                end = start + len(beams.running)
                beams.step(resident, logits[start:end], demands)
                start = end
            active = [beams for beams in active if not beams.search.done]
            if active:
                logits = advance(resident, [beam for beams in active for beam in beams.running])
    finally:
        resident.close()
    return searches
