"""A frozen encoder-decoder learns another accent by a prompt: American to British English.

The model is `bart-g2p-us` (words to American phonemes, 751,488 weights); rows are words with their
British phonemes. One run trains `SoftPromptGenerator` with one length of the prompt, one start and
one seed, and counts the words of the test rows whose whole transcription is right. The best prompt
is chosen by the loss on validation rows. Every run is one JSON line; runs that the file already has
are skipped, so that the study can be stopped at any moment.

Starts: "vocabulary" (embeddings of sampled tokens), "random" (with the embeddings' mean and
deviation), "other-task" (a prompt of the same length and seed that was trained as long on the
American transcriptions).

    python benchmarks/g2p.py --lengths 20 --starts vocabulary --seeds 0
    python benchmarks/g2p.py --table
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, machine, markdown_table, read_rows, versions

import softprompt

BOS, EOS, UNKNOWN = 1, 2, 3
STARTS = ("vocabulary", "random", "other-task")


class Characters:
    """Graphemes and phonemes are characters; an id is the place in the alphabet."""

    bos_token_id, eos_token_id, vocab_size = BOS, EOS, 63

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.graphemes, self.phonemes = config["grapheme_chars"], config["phoneme_chars"]

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return _ids(text, self.graphemes, add_special_tokens)

    def encode_target(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return _ids(text, self.phonemes, add_special_tokens)

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(self.phonemes[i] for i in ids if UNKNOWN < i < len(self.phonemes))


def _ids(text: str, alphabet: str, add_special_tokens: bool) -> list[int]:
    ids = [max(alphabet.find(character), UNKNOWN) for character in text]
    return [BOS, *ids, EOS] if add_special_tokens else ids


def load(name: str) -> softprompt.Model:
    """A model of the folder beside the repository, or of ``SOFTPROMPT_SHARED``."""
    shared = Path(os.environ.get("SOFTPROMPT_SHARED") or ROOT.parent / "shared")
    folder = shared / "models" / name
    return softprompt.load_model(folder, tokenizer=Characters(folder))


def rows_of(split: str, side: str) -> tuple[list[str], list[str]]:
    rows = read_rows("g2p_en", split)
    return [row["word"] for row in rows], [row[side] for row in rows]


def make_generator(model, length: int, init: Any, seed: int, options: argparse.Namespace):
    return softprompt.SoftPromptGenerator(
        model,
        template="{word}",
        num_virtual_tokens=length,
        init=init,
        max_steps=options.steps,
        batch_size=options.batch,
        learning_rate=options.rate or "auto",
        eval_every=max(1, options.steps // 5),
        max_new_tokens=40,
        validation_metric="loss",
        progress=False,
        random_state=seed,
    )


def fit(model, side: str, length: int, init: Any, seed: int, options: argparse.Namespace):
    generator = make_generator(model, length, init, seed, options)
    held_out = [part[: options.validation] for part in rows_of("validation", side)]
    return generator.fit(*rows_of("train", side), validation_data=held_out)


def exact(model, prompt: Any, side: str) -> float:
    """Share of test words whose whole transcription is right."""
    words, wanted = rows_of("test", side)
    got = model.generate(words, prompt, max_new_tokens=40)
    return float(np.mean([a == b for a, b in zip(got, wanted, strict=True)]))


def run(model, length: int, start: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train, and score the test rows."""
    begin, cpu_begin = time.perf_counter(), time.process_time()
    init: Any = start
    if start == "other-task":
        init = fit(model, "us", length, "vocabulary", seed, options).prompt_
        begin, cpu_begin = time.perf_counter(), time.process_time()
    generator = fit(model, "gb", length, init, seed, options)
    return {
        "seconds": round(time.perf_counter() - begin, 1),
        "cpu_seconds": round(time.process_time() - cpu_begin, 1),
        "best_step": generator.best_iter_,
        "validation_loss": round(-generator.best_score_, 5),
        "exact_gb": round(exact(model, generator.prompt_, "gb"), 4),
        "exact_us": round(exact(model, generator.prompt_, "us"), 4),
        "machine": machine(),
        "versions": versions("numpy"),
    }


def without_prompt(rows: int) -> dict[str, Any]:
    """The frozen models themselves on the British words; and what rows that say nothing, embeddings
    of the begin token, do to the American model's loss on American words."""
    us, gb = load("bart-g2p-us"), load("bart-g2p-gb")
    words, wanted = (part[:rows] for part in rows_of("validation", "us"))
    tokenizer = us.tokenizer
    examples = [
        (tokenizer.encode(word), tokenizer.encode_target(text))
        for word, text in zip(words, wanted, strict=True)
    ]
    idle = {n: us.embeddings[np.full(n, BOS)] if n else None for n in (0, 1, 5, 20)}
    return {
        "us model": exact(us, None, "gb"),
        "gb model": exact(gb, None, "gb"),
        "us loss by idle rows": {n: round(us.loss(p, examples), 3) for n, p in idle.items()},
    }


def read_runs(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def table(runs: list[dict[str, Any]]) -> str:
    """Mean and deviation of the exact match over the seeds, of every length and start."""
    groups: dict[tuple, list[dict]] = {}
    for one in runs:
        groups.setdefault((one["length"], one["start"], one["steps"]), []).append(one)
    rows = []
    for (length, start, steps), group in sorted(groups.items()):
        percent = [100 * one["exact_gb"] for one in group]
        rows.append(
            [
                f"{length}, {start}",
                steps,
                len(group),
                f"{statistics.mean(percent):.1f}",
                f"{statistics.stdev(percent):.1f}" if len(group) > 1 else "",
                f"{statistics.mean(one['validation_loss'] for one in group):.3f}",
                f"{statistics.mean(one['cpu_seconds'] for one in group):.0f}",
            ]
        )
    head = ["length, start", "steps", "seeds", "exact match %", "deviation", "loss", "CPU s of fit"]
    return markdown_table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", nargs="+", type=int, default=[1, 5, 20, 40])
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, help="default: the generator's own")
    parser.add_argument("--validation", type=int, default=200, help="rows that choose the prompt")
    parser.add_argument("--frozen", action="store_true", help="score the models without a prompt")
    parser.add_argument("--table", action="store_true", help="show the results and run nothing")
    default = Path(__file__).parent / "results" / "g2p.jsonl"
    parser.add_argument("--output", type=Path, default=default)
    options = parser.parse_args()
    runs = read_runs(options.output)
    if options.table:
        print(table(runs))
        return
    if options.frozen:
        print(json.dumps(without_prompt(options.validation)))
        return
    model = load("bart-g2p-us")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        for length in options.lengths:
            for start in options.starts:
                wanted = {
                    "length": length, "start": start, "seed": seed, "steps": options.steps,
                    "batch": options.batch, "rate": options.rate or "auto",
                    "validation_rows": options.validation,
                }  # fmt: skip
                if any(wanted.items() <= one.items() for one in runs):
                    continue
                runs.append(wanted | run(model, length, start, seed, options))
                with options.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(runs[-1]) + "\n")
                print(table(runs[-1:]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
