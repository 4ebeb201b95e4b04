"""What a decoder reads before it writes: start token, forced token, language."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, models

from softprompt.model.encoder import decoder_beginning
from softprompt.tokenizer import FastTokenizer, TranslationTokenizer

EOS = 2
LANGUAGES = {"en": 7, "de": 8}


def translator(code_stands):
    backend = Tokenizer(models.WordLevel({"a": 0, "</s>": EOS}, unk_token="a"))
    return TranslationTokenizer(
        FastTokenizer(backend, None, EOS), LANGUAGES, src_lang="en", tgt_lang="de",
        code_stands=code_stands, eos_token_id=EOS,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("start", "forced", "code_stands", "wanted"),
    [
        (5, None, None, (5, [])),
        (5, 6, None, (5, [6])),
        (5, None, "before", (5, [8])),  # NLLB, M2M-100, mBART-50
        (5, 6, "before", (5, [6])),
        (5, None, "after", (5, [])),  # mBART, which was made for one language
        (None, None, "after", (8, [])),
        (None, None, "before", (EOS, [8])),
    ],
)
def test_beginnings(start, forced, code_stands, wanted):
    config = SimpleNamespace(decoder_start_token_id=start, forced_bos_token_id=forced)
    tokenizer = None if code_stands is None else translator(code_stands)
    assert decoder_beginning(SimpleNamespace(config=config, tokenizer=tokenizer)) == wanted


@pytest.mark.parametrize("code_stands", ["before", "after"])
def test_a_target_begins_as_a_generated_text_does(code_stands):
    """Without a start token the loss takes a target's last one."""
    tokenizer = translator(code_stands)
    config = SimpleNamespace(decoder_start_token_id=None, forced_bos_token_id=None)
    start, forced = decoder_beginning(SimpleNamespace(config=config, tokenizer=tokenizer))
    target = tokenizer.encode_target("a")
    assert target[-1] == start
    assert target[: len(forced)] == forced
