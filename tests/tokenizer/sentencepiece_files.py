"""Small SentencePiece models, trained by SentencePiece itself."""

from __future__ import annotations

import io

import sentencepiece

# Words enough for some hundred pieces, other scripts, and characters that NFKC rewrites.
TEXT = """
A soft prompt is a small matrix of trainable vectors put before the embedded input.
The model itself stays as it is, so one model serves many tasks: swap the prompt, a file of bytes.
With causal attention, what stands before a text never sees the text. There is no padding.
Somebody has a few hundred labelled texts, a laptop and a small language model; nothing more.
Training finds vectors that no words have, and the frozen model reads them as if they were words.
I'm sure they don't; it's 1234 or 56.78 %, isn't it? E-mail: someone@example.org, (see below).
Съешь ещё этих мягких французских булок, да выпей чаю. Ein süßer Apfel fällt über die Mauer.
東京都に住んでいる人は多い。 漢字とかなを混ぜて書く。 Ａ full-width ｌｅｔｔｅｒ, the ﬁrst ½.
naïve café résumé coöperate façade élève déjà vu jalapeño Zürich Ångström São Paulo
""".strip()


def train(model_type: str, vocab_size: int = 300, **options) -> bytes:
    """The bytes of a model; `options` are SentencePiece's own."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines() * 20),
        model_writer=out,
        model_type=model_type,
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        minloglevel=5,
        num_threads=1,
        **options,
    )
    return out.getvalue()
