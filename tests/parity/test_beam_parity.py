"""Beam search: transformers 5 against softprompt, the search alone and whole models.

Token ids are compared, and with them every decision of a search. A model's two float32
implementations differ by 1e-6 of a logit; the seeds here are such that no decision hangs on that
(the random tables' candidates lie about 1e-2 apart).
"""

from __future__ import annotations

import itertools

import decoders
import numpy as np
import pytest
import tiny
from golden import cases

pytest.importorskip("torch", reason="parity needs torch, transformers 5 and peft 0.21")

import torch
import transformers
from parity import families_oracle, oracle
from transformers.modeling_outputs import CausalLMOutput

import softprompt
from softprompt.model.beams import BeamOptions, BeamSearch, log_softmax

EARLY = [False, True, "never"]
PENALTIES = [0.0, 1.0, 2.0]


def beam_search(
    model: torch.nn.Module,
    inputs: list[list[int]],
    max_new_tokens: int,
    *,
    num_return_sequences: int,
    eos_token_id: object,
    **options: object,
) -> list[list[int]]:
    """New tokens of transformers' beam search, of one padded batch, without end tokens."""
    longest = max(map(len, inputs))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in inputs])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in inputs])
    config = transformers.GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_return_sequences=num_return_sequences,
        pad_token_id=0,
        eos_token_id=eos_token_id,
        **options,
    )
    with torch.no_grad():
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
    ends = eos_token_id if isinstance(eos_token_id, list) else [eos_token_id]
    found = []
    for row in out.tolist():
        new = row[longest:]
        found.append(new[: next((i for i, token in enumerate(new) if token in ends), len(new))])
    return found


# ---- the search alone ----


class TableModel(transformers.PreTrainedModel, transformers.GenerationMixin):
    """Logits that follow from the last two tokens: a table instead of a network."""

    config_class = transformers.PretrainedConfig

    def __init__(self, config: transformers.PretrainedConfig, table: np.ndarray) -> None:
        super().__init__(config)
        self.table = torch.nn.Parameter(torch.tensor(table), requires_grad=False)

    def forward(self, input_ids, **_):
        rows = (input_ids[:, -2] * 7 + input_ids[:, -1]) % len(self.table)
        return CausalLMOutput(logits=self.table[rows][:, None])


def search(table: np.ndarray, start: list[int], one: BeamSearch) -> BeamSearch:
    """Drive a search by the logits of a table."""
    while not one.done:
        whole = [start + sequence for sequence in one.sequences]
        rows = [(row[-2] * 7 + row[-1]) % len(table) for row in whole]
        one.step(log_softmax(table[rows]))
    return one


@pytest.mark.parametrize("num_beams", [2, 3, 4, 5])
@pytest.mark.parametrize("early_stopping", EARLY)
def test_the_search_alone(num_beams, early_stopping):
    ended = 0
    for seed, penalty in itertools.product(range(12), [*PENALTIES, -1.0, 0.7]):
        rng = np.random.default_rng(seed)
        vocab_size = int(rng.integers(20, 60))
        table = rng.standard_normal((29, vocab_size)).astype(np.float32) * 2
        ends = rng.permutation(vocab_size)[: 1 + seed % 3].tolist()
        table[:, ends] += 1.5  # so that some texts end
        limit = int(rng.integers(1, 14))
        model = TableModel(transformers.PretrainedConfig(vocab_size=vocab_size), table)
        expected = beam_search(
            model, [[1, 2]], limit, num_beams=num_beams, length_penalty=penalty,
            early_stopping=early_stopping, num_return_sequences=num_beams, eos_token_id=ends,
            use_cache=False,
        )  # fmt: skip
        options = BeamOptions(num_beams, penalty, early_stopping)
        found = search(table, [1, 2], BeamSearch(options, limit=limit, end_ids=ends))
        whole = found.best(num_beams)
        assert [ids[:-1] if ids[-1] in ends else ids for ids in whole] == expected
        ended += sum(ids[-1] in ends and len(ids) < limit for ids in whole)
    assert ended > 60  # of 60 searches: ends were found, and not at the last token alone


# ---- whole models ----


class WholeRuns(transformers.PreTrainedModel, transformers.GenerationMixin):
    """A model, with PEFT's prompt or without, that computes every text anew: a cache keeps keys
    that were rotated by the frequencies of a shorter text."""

    config_class = transformers.PretrainedConfig

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(transformers.PretrainedConfig(vocab_size=model.config.vocab_size))
        self.model = model

    def forward(self, input_ids, **_):
        rows = [families_oracle.run(self.model, row[None])[-1:] for row in input_ids]
        return CausalLMOutput(logits=torch.stack(rows))


def check_batch(ours, theirs, inputs, prompt, max_new_tokens, **options):
    """One batch of ours against each text alone."""
    count = options["num_return_sequences"]
    ends = list(ours.config.eos_token_ids)
    cached = {} if not isinstance(theirs, WholeRuns) else {"use_cache": False}
    got = ours.generate(inputs, prompt, max_new_tokens=max_new_tokens, return_ids=True, **options)
    for i, ids in enumerate(inputs):
        expected = beam_search(
            theirs, [ids], max_new_tokens, eos_token_id=ends, **options, **cached
        )
        assert got[i * count : (i + 1) * count] == expected


@pytest.mark.parametrize("name", list(decoders.CONFIGS))
def test_families(tmp_path, name):
    config = decoders.CONFIGS[name]
    folder = families_oracle.write(tmp_path, config, seed=9)
    theirs = families_oracle.load(folder, exact=False)
    prompt = decoders.prompt(config, 3)
    inputs = [input_ids for input_ids, _ in decoders.examples(config)]
    check_batch(
        softprompt.load_model(folder), WholeRuns(oracle.add_prompt(theirs, prompt)), inputs, prompt,
        9, num_beams=3, length_penalty=1.0, early_stopping=False, num_return_sequences=3,
    )  # fmt: skip


@pytest.mark.parametrize("early_stopping", EARLY)
@pytest.mark.parametrize("rows", [0, 4])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_options(tmp_path, name, rows, early_stopping):
    """With transformers' own cache; the end token comes early in these models."""
    folder = tiny.write_tiny(tmp_path, name, seed=32, changes={"eos_token_id": [5, 9]})
    theirs = oracle.load(folder)
    prompt = cases.prompt(name, rows) if rows else None
    if rows:
        theirs = oracle.add_prompt(theirs, prompt)
    ours = softprompt.load_model(folder)
    for num_beams, penalty in itertools.product([2, 3, 4, 5], PENALTIES):
        check_batch(
            ours, theirs, cases.continued(name), prompt, 12, num_beams=num_beams,
            length_penalty=penalty, early_stopping=early_stopping, num_return_sequences=2,
        )  # fmt: skip


def test_a_padded_batch(tmp_path):
    folder = tiny.write_tiny(tmp_path, "llama", seed=32)
    theirs, ours = oracle.load(folder), softprompt.load_model(folder)
    inputs = [[3, 9, 4, 6, 8], [7], [5, 5, 6], [3, 9]]
    options = {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 2.0}
    ends = list(ours.config.eos_token_ids)
    expected = beam_search(theirs, inputs, 12, eos_token_id=ends, **options)
    assert ours.generate(inputs, max_new_tokens=12, return_ids=True, **options) == expected


@pytest.mark.parametrize("rows", [0, 20])
def test_smollm2(smollm2, smollm2_path, rows):
    pytest.importorskip("gguf", reason="transformers reads GGUF files through the library gguf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        smollm2_path.parent, gguf_file=smollm2_path.name, dtype=torch.float32
    )
    prompt = None
    if rows:
        # Embeddings of words, moved: fluent text follows.
        words = smollm2.tokenizer.encode("Here is a story for children, and it is short:\n\n")
        noise = np.random.default_rng(1).standard_normal((len(words), 576))
        prompt = (smollm2.embeddings[np.array(words)] + 0.02 * noise).astype(np.float32)
        theirs = oracle.add_prompt(theirs, prompt)
    texts = ["The history of the bicycle begins", "Once"]
    inputs = [smollm2.tokenizer.encode(text) for text in texts]
    for num_beams, penalty, early in [(3, 1.0, False), (4, 2.0, "never")]:
        check_batch(
            smollm2, theirs, inputs, prompt, 15, num_beams=num_beams, length_penalty=penalty,
            early_stopping=early, num_return_sequences=2,
        )  # fmt: skip
