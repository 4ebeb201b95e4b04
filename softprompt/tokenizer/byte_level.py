"""Byte-level BPE of a Hugging Face folder without tokenizer.json: vocab.json and merges.txt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from softprompt.tokenizer.fast import tokenizers_errors
from softprompt.tokenizer.options import TokenizerOptions
from softprompt.tokenizer.pretokenizers import PRE_TOKENIZERS, build_pre_tokenizer

VOCABULARY, MERGES = "vocab.json", "merges.txt"

_GPT2 = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
_BART = {
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>",
    "mask_token": "<mask>",
}  # fmt: skip

NAMED_TOKENS = {
    "gpt2": _GPT2,
    "gpt_neo": _GPT2,
    "gptj": _GPT2,
    "codegen": _GPT2,
    "phi": _GPT2,
    "opt": {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"},
    "bart": _BART,
    "roberta": _BART,
    "qwen2": {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
}
"""The kinds of tokenizer that these two files may be, with the tokens that transformers' classes
name where the configuration does not."""

MARKED = ("bart", "roberta")
"""Those whose texts stand between the begin and the end token."""


def build_byte_level(folder: Path, options: TokenizerOptions) -> Any:
    """Return the `tokenizers.Tokenizer` of a folder with vocab.json and merges.txt.

    Parameters
    ----------
    folder : Path
    options : TokenizerOptions
        Of a kind in `NAMED_TOKENS`.

    Raises
    ------
    ValueError
        A damaged file.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    with tokenizers_errors(str(folder / VOCABULARY)):
        files = str(folder / VOCABULARY), str(folder / MERGES)
        backend = Tokenizer(models.BPE.from_file(*files))
    if options.kind == "qwen2":
        backend.normalizer = normalizers.NFC()
        backend.pre_tokenizer = build_pre_tokenizer(PRE_TOKENIZERS["qwen2"])
    else:
        prefix = options.flag("add_prefix_space", False)
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    backend.decoder = decoders.ByteLevel()
    return backend
