r"""Pre-tokenizers of GGUF vocabularies: how a text is cut before its pieces are merged.

A GGUF names its pre-tokenizer (``tokenizer.ggml.pre``); llama.cpp defines what the name means:
regular expressions applied one after the other, each to the pieces of those before it, where
matches and what lies between them both become pieces (``llm_tokenizer_bpe`` in
src/llama-vocab.cpp of https://github.com/ggml-org/llama.cpp, and the names below it).

Where llama.cpp rewrites a tokenizer.json's expression because its regex engine lacks something
(``(?i:...)``, ``\p{Lu}``), the form used here is the original, which it quotes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
)
_QWEN2 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES
)
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES
)
_QWEN35 = (
    _CONTRACTION
    + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|"
    + _SPACES
)
# llama.cpp computes these two by code of its own; the first is Kimi-K2's own expression, the second
# cuts a run of digits into threes from its end.
_NOT_HAN = r"&&[^\p{Han}]"
_KIMI_UPPER, _KIMI_LOWER = f"{_UPPER[:-1]}{_NOT_HAN}]", f"{_LOWER[:-1]}{_NOT_HAN}]"
_KIMI = (
    rf"[\p{{Han}}]+|[^\r\n\p{{L}}\p{{N}}]?{_KIMI_UPPER}*{_KIMI_LOWER}+{_CONTRACTION}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_KIMI_UPPER}+{_KIMI_LOWER}*{_CONTRACTION}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
)
_THREES_FROM_THE_END = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"
_CJK = "[一-龥぀-ゟ゠-ヿ]+"
_ASIAN = (
    "[一-鿿㐀-䶿\uf900-\ufaff぀-ゟ゠-ヿ･-ﾟ⼀-⿟\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff"
    "\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff가-\ud7afᄀ-ᇿ]+"
)
_LINES = r"[^\n]+|[\n]+"
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_SYMBOL_AND_WORD = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"
)
_DEEPSEEK3 = _SYMBOL_AND_WORD + r"[\r\n]*|" + _SPACES
# The cased letters as deepseek-llm's tokenizer.json lists them. Written as escapes, because several
# of them are not what Unicode normalisation (of an editor, say) leaves alone.
_CASED = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293"
    "\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c"
    "\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5"
    "\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59"
    "\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc"
    "\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107"
    "\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee"
    "\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e"
    "\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    "\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
)


@dataclass(frozen=True)
class PreTokenizer:
    """How a kind of vocabulary cuts texts, and what it assumes where the metadata is silent.

    Attributes
    ----------
    patterns : tuple of str
        Regular expressions (Oniguruma), applied in this order.
    adds_bos : bool
        Whether texts start with the begin token unless the metadata says otherwise.
    ignores_merges : bool
        A piece that is a token as a whole is that token, whatever the merges say.
    is_byte_level : bool
        Whether tokens are spelled in GPT-2's visible characters of bytes. If not, they are spelled
        as they are, with U+2581 for a space and ``<0x0A>`` for bytes without a token.
    """

    patterns: tuple[str, ...]
    adds_bos: bool = False
    ignores_merges: bool = False
    is_byte_level: bool = True


_BY_NAMES: dict[tuple[str, ...], PreTokenizer] = {
    ("default",): PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    (
        "gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "mpt", "olmo", "jais", "trillion",
        "granite-docling", "exaone4", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de",
        "modern-bert", "jina-v1-en", "jina-v2-code", "roberta-bpe",
    ): PreTokenizer((_GPT2,)),
    (
        "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b",
        "mellum2",
    ): PreTokenizer((r"\p{N}", _GPT2)),
    (
        "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
        "jina-v5-nano",
    ): PreTokenizer((_LLAMA3,), adds_bos=True, ignores_merges=True),
    ("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"): PreTokenizer((_LLAMA3,)),
    (
        "qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan", "grok-2", "solar-open",
        "kormo", "f2llmv2",
    ): PreTokenizer((_QWEN2,)),
    ("tekken",): PreTokenizer((_TEKKEN,), adds_bos=True, ignores_merges=True),
    ("gpt-4o", "llama4", "kanana2", "minimax-m2", "talkie"): PreTokenizer((_GPT4O,)),
    ("granite-embed-multi-97m",): PreTokenizer((_GPT4O,), ignores_merges=True),
    ("tiny_aya", "cohere2moe"): PreTokenizer((r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O)),
    ("qwen35",): PreTokenizer((_QWEN35,)),
    ("ufakzeka",): PreTokenizer((_QWEN2.removeprefix(_CONTRACTION + "|"),)),
    ("laguna",): PreTokenizer((_LINES, _QWEN2)),
    ("minicpm5",): PreTokenizer(
        (r"\p{N}{1,3}", _QWEN2.replace(r"|\p{N}|", r"|\p{N}+|")), ignores_merges=True
    ),
    ("jais-2",): PreTokenizer(
        (
            _LLAMA3.removesuffix(_SPACES)
            + r"\s*[\r\n]+"
            + "".join(rf"|\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4))
            + r"|\s{1,2}(?!\S)|\s{1}",
        )
    ),
    ("seed-coder",): PreTokenizer(
        (_CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|" + _SPACES,)
    ),
    ("bailingmoe", "bailingmoe2", "llada-moe"): PreTokenizer(
        (
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
            r"|\s*[\r\n]|\s+(?!\S)|\s+",
        )
    ),
    ("exaone-moe",): PreTokenizer(
        (
            _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        )
    ),
    ("youtu",): PreTokenizer(
        (
            "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|" + _CJK,
            _GPT4O.replace(r"\p{N}{1,3}", r"\p{N}"),
        ),
        ignores_merges=True,
    ),
    ("superbpe",): PreTokenizer((r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    ("kimi-k2",): PreTokenizer((_KIMI,)),
    ("afmoe",): PreTokenizer((_THREES_FROM_THE_END, _ASIAN, _DEEPSEEK3)),
    ("chameleon",): PreTokenizer(
        (
            r"<sentinel:[0-9]+>",
            r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
            r"([\t\n]|    |  )",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            _GPT2,
        ),
        adds_bos=True,
    ),
    ("gemma4", "granite-embed-multi-311m"): PreTokenizer(
        (_LINES,), adds_bos=True, ignores_merges=True, is_byte_level=False
    ),
    ("sarvam-moe",): PreTokenizer((_LINES,), is_byte_level=False),
    ("falcon",): PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]")),
    ("bloom", "poro-chat", "gpt3-finnish"): PreTokenizer((_BLOOM,)),
    ("viking",): PreTokenizer((_BLOOM, r"\p{N}")),
    ("deepseek-llm",): PreTokenizer(
        (
            r"[\r\n]",
            rf"\s?[{_CASED}]+",
            r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
            r"\s+$",
            r"[一-龥ࠀ-一가-퟿]+",
            r"\p{N}+",
        )
    ),
    ("deepseek-coder",): PreTokenizer(
        (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}")
    ),
    ("deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"): PreTokenizer(
        (r"\p{N}{1,3}", _CJK, _DEEPSEEK3)
    ),
    ("spark2_5",): PreTokenizer(
        (r"\p{N}{1,3}", _CJK, _SYMBOL_AND_WORD + r"|[\r\n]|\s+(?!\S)|\s+", r"\p{N}")
    ),
}  # fmt: skip

PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    name: kind for names, kind in _BY_NAMES.items() for name in names
}


def find_pre_tokenizer(name: str | None, where: str) -> PreTokenizer:
    """Look up the pre-tokenizer that a GGUF names.

    Parameters
    ----------
    name : str or None
        Value of ``tokenizer.ggml.pre``; files from before that key have none ("default").
    where : str
        The file's name, for messages.

    Returns
    -------
    PreTokenizer

    Raises
    ------
    ValueError
        An unknown name: another way of cutting texts would give other ids.
    """
    name = "default" if name is None else name
    if not isinstance(name, str) or name not in PRE_TOKENIZERS:
        raise ValueError(
            f"{where}: tokenizer.ggml.pre is {name!r}, expected one of "
            f"{', '.join(sorted(PRE_TOKENIZERS))}. Load the model with tokenizer= (any object with "
            "encode and decode) to use it all the same"
        )
    return PRE_TOKENIZERS[name]


def build_pre_tokenizer(kind: PreTokenizer) -> Any:
    """Build the `tokenizers` pre-tokenizer: the cuts, then bytes written as visible characters."""
    from tokenizers import Regex, pre_tokenizers

    cuts = [pre_tokenizers.Split(Regex(p), behavior="isolated") for p in kind.patterns]
    if kind.is_byte_level:
        cuts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    return pre_tokenizers.Sequence(cuts)
